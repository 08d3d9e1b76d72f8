package nodes

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/assay-project/assay/kube/v1alpha1"
)

// TestPatches: what is sent for a change of a Node. Nothing in it depends on the resource version, on the cordon as it was or on others' taints staying.
func TestPatches(t *testing.T) {
	ours := corev1.Taint{Key: v1alpha1.TaintUntrusted, Value: "Failed", Effect: corev1.TaintEffectNoSchedule}
	evicts := corev1.Taint{Key: v1alpha1.TaintUntrusted, Value: "Failed", Effect: corev1.TaintEffectNoExecute}
	other := corev1.Taint{Key: "other", Effect: corev1.TaintEffectNoSchedule}
	const uid = `{"op":"test","path":"/metadata/uid","value":"uid-of-a"},`
	const oursText = `{"key":"integrity.assay.dev/untrusted","value":"Failed","effect":"NoSchedule"}`
	for name, row := range map[string]struct {
		before, after  []corev1.Taint
		change         func(*corev1.Node)
		steps, members string
	}{
		"nothing":        {before: []corev1.Taint{other}, after: []corev1.Taint{other}, steps: "null", members: "null"},
		"first taint":    {after: []corev1.Taint{ours}, steps: "[" + uid + `{"op":"test","path":"/spec/taints","value":null},{"op":"add","path":"/spec/taints","value":[` + oursText + `]}]`, members: "null"},
		"one more taint": {before: []corev1.Taint{other}, after: []corev1.Taint{other, ours}, steps: "[" + uid + `{"op":"add","path":"/spec/taints/-","value":` + oursText + `}]`, members: "null"},
		"taint away":     {before: []corev1.Taint{other, ours, other}, after: []corev1.Taint{other, other}, steps: "[" + uid + `{"op":"test","path":"/spec/taints/1","value":` + oursText + `},{"op":"remove","path":"/spec/taints/1","value":null}]`, members: "null"},
		"another effect": {
			before: []corev1.Taint{evicts, other}, after: []corev1.Taint{other, ours},
			steps: "[" + uid + `{"op":"test","path":"/spec/taints/0","value":{"key":"integrity.assay.dev/untrusted","value":"Failed","effect":"NoExecute"}},{"op":"remove","path":"/spec/taints/0","value":null},` +
				`{"op":"add","path":"/spec/taints/-","value":` + oursText + `}]`,
			members: "null",
		},
		"labels": {
			change: func(n *corev1.Node) { n.Labels = map[string]string{"same": "x", "new": "", "changed": "2"} }, steps: "null",
			members: `{"metadata":{"labels":{"changed":"2","gone":null,"new":""},"uid":"uid-of-a"}}`,
		},
		"cordon": {change: func(n *corev1.Node) { n.Spec.Unschedulable = true }, steps: "null", members: `{"metadata":{"uid":"uid-of-a"},"spec":{"unschedulable":true}}`},
	} {
		before := node("a", map[string]string{"same": "x", "gone": "x", "changed": "1"})
		before.UID, before.ResourceVersion, before.Spec.Taints = "uid-of-a", "7", row.before
		after := before.DeepCopy()
		after.Spec.Taints = row.after
		if row.change != nil {
			row.change(after)
		}
		for _, got := range []struct {
			content any
			want    string
		}{{taintSteps(before, after), row.steps}, {memberPatch(before, after), row.members}} {
			text, err := json.Marshal(got.content)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got.want, string(text)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
	}
}

// TestOvertaken: what is read and tried again at once is told from what would fail again.
func TestOvertaken(t *testing.T) {
	resource := schema.GroupResource{Resource: "nodes"}
	for name, row := range map[string]struct {
		err  error
		want bool
	}{
		"a test of a patch failed": {apierrors.NewGenericServerResponse(422, "", schema.GroupResource{}, "", "testing value /spec/taints failed", 0, false), true},
		"conflict":                 {apierrors.NewConflict(resource, "a", errors.New("changed")), true},
		"forbidden":                {apierrors.NewForbidden(resource, "a", errors.New("no")), false},
		"gone":                     {apierrors.NewNotFound(resource, "a"), false},
		"no answer":                {errors.New("connection refused"), false},
	} {
		if got := overtaken(fmt.Errorf("patch: %w", row.err)); got != row.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if overtaken(nil) {
		t.Error("no error is taken for one")
	}
}

package platform

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/assay-project/assay/kube/v1alpha1"
)

var nodesResource = schema.GroupResource{Resource: "nodes"}

func invalid(kind field.ErrorType, path, detail string) error {
	return fmt.Errorf("write StatefulSet: %w", apierrors.NewInvalid(schema.GroupKind{Group: "apps", Kind: "StatefulSet"}, "assay-server", field.ErrorList{{Type: kind, Field: path, Detail: detail, BadValue: "x"}}))
}

// TestTake: what a person can do something about becomes a condition; anything else is tried again.
func TestTake(t *testing.T) {
	forbidden := fmt.Errorf("write: %w", apierrors.NewForbidden(nodesResource, "a", errors.New("exceeded quota")))
	for name, row := range map[string]struct {
		err       error
		permitted metav1.ConditionStatus
		reason    string // "" when it is not taken
		says      string
	}{
		"a problem":                           {fmt.Errorf("certificates: %w", &problem{v1alpha1.ConditionReady, "SecretMissing", "create it"}), metav1.ConditionTrue, "SecretMissing", "create it"},
		"forbidden, with all rights":          {forbidden, metav1.ConditionTrue, "Forbidden", "admission policy or quota"},
		"forbidden, and a right is missing":   {forbidden, metav1.ConditionFalse, ReasonPermissionMissing, "exceeded quota"},
		"forbidden, and rights are not known": {forbidden, metav1.ConditionUnknown, "Forbidden", "exceeded quota"},
		"invalid":                             {invalid(field.ErrorTypeInvalid, "spec.x", "is odd"), metav1.ConditionTrue, "Rejected", "is odd"},
		"bad request":                         {apierrors.NewBadRequest("no JSON"), metav1.ConditionTrue, "Rejected", "no JSON"},
		"conflict":                            {apierrors.NewConflict(nodesResource, "a", nil), metav1.ConditionTrue, "", ""},
		"server away":                         {errors.New("connection refused"), metav1.ConditionTrue, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			found := findings{}
			found.set(v1alpha1.ConditionPermitted, row.permitted, "x", "x")
			taken := found.take(row.err)
			c := found[v1alpha1.ConditionReady]
			if taken != (row.reason != "") || c.Reason != row.reason || !strings.Contains(c.Message, row.says) || taken && c.Status != metav1.ConditionFalse {
				t.Errorf("taken %v: %+v", taken, c)
			}
		})
	}
}

// TestAgents: no DaemonSet counts as served before its controller has looked at what it wants now.
func TestAgents(t *testing.T) {
	set := func(name string, seen int64, wanted, ready int32) appsv1.DaemonSet {
		return appsv1.DaemonSet{
			ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 2},
			Status:     appsv1.DaemonSetStatus{ObservedGeneration: seen, DesiredNumberScheduled: wanted, NumberReady: ready},
		}
	}
	for name, row := range map[string]struct {
		sets []appsv1.DaemonSet
		want string
	}{
		"all run":            {[]appsv1.DaemonSet{set("a", 2, 3, 3), set("b", 2, 1, 1)}, "True/Ready: 4 pods on nodes"},
		"none is wanted":     {[]appsv1.DaemonSet{set("a", 2, 0, 0)}, "True/Ready: 0 pods on nodes"},
		"one does not run":   {[]appsv1.DaemonSet{set("b", 2, 3, 2), set("a", 2, 1, 1)}, "False/NotReady: [b: 1 of 3 not ready]"},
		"not looked at":      {[]appsv1.DaemonSet{set("a", 0, 0, 0)}, "False/NotReady: [a: Kubernetes has not looked at it yet]"},
		"changed since then": {[]appsv1.DaemonSet{set("a", 1, 2, 2)}, "False/NotReady: [a: Kubernetes has not looked at it yet]"},
	} {
		found := findings{}
		found.agents(row.sets)
		c := found[v1alpha1.ConditionAgents]
		if got := fmt.Sprintf("%s/%s: %s", c.Status, c.Reason, c.Message); got != row.want {
			t.Errorf("%s: %s, want %s", name, got, row.want)
		}
	}
}

// TestStatus: Ready is what is not false, and names what has to be put right first.
func TestStatus(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := &Reconciler{Namespace: "assay", Now: func() time.Time { return now }}
	const yes, no, unknown = metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown
	kinds := []string{v1alpha1.ConditionPermitted, v1alpha1.ConditionCertificates, v1alpha1.ConditionServer, v1alpha1.ConditionAgents}
	for name, row := range map[string]struct {
		states [4]metav1.ConditionStatus // in the order of kinds; "" for not judged
		ready  string
	}{
		"all is well":              {[4]metav1.ConditionStatus{yes, yes, yes, yes}, "True/Ready"},
		"rights are not known":     {[4]metav1.ConditionStatus{unknown, yes, yes, yes}, "True/Ready"},
		"agents are missing":       {[4]metav1.ConditionStatus{yes, yes, yes, no}, "False/AgentsAvailable"},
		"the server, then agents":  {[4]metav1.ConditionStatus{yes, yes, no, no}, "False/ServerAvailable"},
		"certificates above all":   {[4]metav1.ConditionStatus{yes, no, no, no}, "False/CertificatesReady"},
		"rights above everything":  {[4]metav1.ConditionStatus{no, no, no, no}, "False/Permitted"},
		"certificates, none after": {[4]metav1.ConditionStatus{yes, no, "", ""}, "False/CertificatesReady"},
	} {
		t.Run(name, func(t *testing.T) {
			found := findings{}
			for i, kind := range kinds {
				if row.states[i] != "" {
					found.set(kind, row.states[i], kind, "about "+kind)
				}
			}
			p := &v1alpha1.AttestationPlatform{ObjectMeta: metav1.ObjectMeta{Generation: 7}}
			status := r.status(p, identity{pin: "pin"}, found)
			c := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
			if got := string(c.Status) + "/" + c.Reason; got != row.ready || status.ObservedGeneration != 7 || status.ServerCAPin != "pin" || status.Server != "assay-server.assay.svc:8443" {
				t.Errorf("%s, want %s: %+v", got, row.ready, status)
			}
			for i, kind := range kinds {
				if c := meta.FindStatusCondition(status.Conditions, kind); c == nil || (row.states[i] == "") != (c.Reason == "NotReached") {
					t.Errorf("%s: %+v", kind, c)
				}
			}
			// An hour later nothing has changed, so nothing is written.
			p.Status, now = status, now.Add(time.Hour)
			if next := r.status(p, identity{}, found); !equality.Semantic.DeepEqual(status, next) {
				t.Errorf("(-first +later):\n%s", cmp.Diff(status, next))
			}
		})
	}
}

// TestFixed: a StatefulSet is made anew only where the API server says that this cannot be changed, and not where a value is wrong.
func TestFixed(t *testing.T) {
	for name, row := range map[string]struct {
		err  error
		want bool
	}{
		"cannot be changed":           {invalid(field.ErrorTypeForbidden, "spec", "updates to statefulset spec for fields other than ... are forbidden"), true},
		"a wrong value":               {invalid(field.ErrorTypeInvalid, "spec", "is odd"), false},
		"forbidden in another place":  {invalid(field.ErrorTypeForbidden, "spec.template.spec.hostNetwork", "may not be"), false},
		"the account may not":         {apierrors.NewForbidden(nodesResource, "a", errors.New("no")), false},
		"an answer without causes":    {&apierrors.StatusError{ErrStatus: metav1.Status{Reason: metav1.StatusReasonInvalid}}, false},
		"no answer of the API server": {errors.New("connection refused"), false},
		"no error":                    {nil, false},
	} {
		if got := fixed(row.err); got != row.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestCheckImages: only images that something will run are asked for, by the names of their values.
func TestCheckImages(t *testing.T) {
	no := false
	for name, row := range map[string]struct {
		change func(*input)
		want   string
	}{
		"all there":                 {func(*input) {}, ""},
		"none":                      {func(in *input) { in.images = v1alpha1.Images{} }, "[images.agent images.operator images.server]"},
		"server elsewhere":          {func(in *input) { external(&in.spec); in.images.Server = "" }, ""},
		"without our device plugin": {func(in *input) { in.spec.Agent.DevicePlugin, in.images.Operator = &no, "" }, ""},
		"emulated":                  {func(in *input) { emulated(&in.spec); in.images.Swtpm = "" }, "[images.swtpm]"},
		"no emulator":               {func(in *input) { in.images.Swtpm = "" }, ""},
	} {
		in := plain(nil)
		row.change(&in)
		err := in.checkImages()
		if p, ok := asProblem(err); (err != nil) != (row.want != "") || err != nil && (!ok || p.reason != "ImageMissing" || !strings.Contains(p.message, row.want)) {
			t.Errorf("%s: %v, want %q", name, err, row.want)
		}
	}
	r := &Reconciler{Images: v1alpha1.Images{Server: "own:1", Agent: "own:2"}}
	if got := r.images(v1alpha1.Images{Agent: "other:2"}); got.Server != "own:1" || got.Agent != "other:2" {
		t.Errorf("%+v", got)
	}
}

// TestDatabaseFails: whose volume it is decides who has to act.
func TestDatabaseFails(t *testing.T) {
	p := &v1alpha1.AttestationPlatform{}
	if got := databaseFails(p, "disk is full"); !strings.Contains(got, "disk is full") || !strings.Contains(got, "PersistentVolumeClaim data-assay-server-0") {
		t.Errorf("%q", got)
	}
	external(&p.Spec)
	if got := databaseFails(p, "disk is full"); strings.Contains(got, "PersistentVolumeClaim") || !strings.Contains(got, "whoever runs the server") {
		t.Errorf("%q", got)
	}
}

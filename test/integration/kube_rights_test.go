package integration

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/deploy"
	"github.com/assay-project/assay/kube/platform"
	"github.com/assay-project/assay/kube/rights"
	"github.com/assay-project/assay/kube/v1alpha1"
)

const operatorAccount = "assay-operator"

// grant gives the operator's account its rights, as the chart does, but for those that lacks picks.
func (k *kubeWorld) grant(lacks func(rights.Right) bool) {
	k.t.Helper()
	k.lacking = lacks
	cluster := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: operatorAccount}}
	own := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: operatorAccount, Namespace: namespace}}
	for _, r := range rights.All(rights.Setting{Namespace: namespace, CertManager: true}) {
		if lacks(r) {
			continue
		}
		rule := rbacv1.PolicyRule{Verbs: []string{r.Verb}, APIGroups: []string{r.Group}, Resources: []string{strings.TrimSuffix(r.Resource+"/"+r.Subresource, "/")}}
		if r.Name != "" {
			rule.ResourceNames = []string{r.Name}
		}
		if r.Namespace == "" {
			cluster.Rules = append(cluster.Rules, rule)
		} else {
			own.Rules = append(own.Rules, rule)
		}
	}
	to := []rbacv1.Subject{{Kind: "ServiceAccount", Name: operatorAccount, Namespace: namespace}}
	for _, o := range []kube.Object{
		cluster, own,
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: operatorAccount}, Subjects: to, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: operatorAccount}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: operatorAccount, Namespace: namespace}, Subjects: to, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: operatorAccount}},
	} {
		err := k.kube.Create(k.t.Context(), o)
		if apierrors.IsAlreadyExists(err) {
			err = k.kube.Update(k.t.Context(), o)
		}
		if err != nil {
			k.t.Fatal(err)
		}
	}
}

// account is the API server as the operator sees it: with the rights of its account and no others.
func (k *kubeWorld) account() *rest.Config {
	k.t.Helper()
	if k.lacking == nil {
		k.grant(nothing)
	}
	config := rest.CopyConfig(k.config)
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + namespace + ":" + operatorAccount, Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
	}
	if before := k.before; before != nil {
		config.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return roundTrip(func(r *http.Request) (*http.Response, error) {
				before(r)
				return next.RoundTrip(r)
			})
		})
	}
	return config
}

// roundTrip is a function that carries requests.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func nothing(rights.Right) bool { return false }

// lack picks a right by its words.
func lack(words ...string) func(rights.Right) bool {
	return func(r rights.Right) bool { return slices.Contains(words, r.String()) }
}

// TestMissingRights takes single rights from an operator that works, and gives them back. Each time the platform says which one is missing, and then
// that all is well, without a restart.
func TestMissingRights(t *testing.T) {
	k := newPlatform(t, "server: {hosts: [attest.example]}\n")
	k.platform(v1alpha1.ConditionPermitted, "RightsComplete")
	k.platform(v1alpha1.ConditionReady, "PodMissing") // envtest runs no pods; nothing else is wrong
	for _, words := range []string{
		"patch nodes", "create tokenreviews.authentication.k8s.io", "get secrets in namespace assay", "patch statefulsets.apps in namespace assay", "create events",
		"patch nodereports/status.integrity.assay.dev", "list secrets in namespace assay",
	} {
		k.grant(lack(words))
		message := k.platform(v1alpha1.ConditionPermitted, "PermissionMissing")
		if !strings.Contains(message, "may not "+words+".") || !strings.Contains(message, "helm upgrade") {
			t.Errorf("without the right to %s: %q", words, message)
		}
		if ready := k.platform(v1alpha1.ConditionReady, "PermissionMissing"); ready != message {
			t.Errorf("Ready says %q", ready)
		}
		k.grant(nothing)
		k.platform(v1alpha1.ConditionPermitted, "RightsComplete")
		k.platform(v1alpha1.ConditionReady, "PodMissing")
	}
	k.grant(func(r rights.Right) bool { return r.Namespace != "" && r.Group == "" })
	if message := k.platform(v1alpha1.ConditionPermitted, "PermissionMissing"); !strings.Contains(message, "more rights") {
		t.Errorf("without the Role: %q", message)
	}
}

// TestRefusedByAnotherRule: with all rights there, whoever refuses is somebody else, and the message says so.
func TestRefusedByAnotherRule(t *testing.T) {
	k := newPlatform(t, "server: {hosts: [attest.example]}\n")
	k.platform(v1alpha1.ConditionReady, "PodMissing")
	none := corev1.ResourceList{"count/daemonsets.apps": resource.MustParse("0")}
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "tight", Namespace: namespace}, Spec: corev1.ResourceQuotaSpec{Hard: none}}
	k.create(quota)
	quota.Status = corev1.ResourceQuotaStatus{Hard: none, Used: none}
	if err := k.kube.Status().Update(t.Context(), quota); err != nil { // the controller of quotas is not here
		t.Fatal(err)
	}
	k.values("agent: {form: Privileged}\n")
	message := k.platform(v1alpha1.ConditionReady, "Forbidden")
	if !strings.Contains(message, "exceeded quota: tight") || !strings.Contains(message, "admission policy or quota") {
		t.Errorf("message %q", message)
	}
	k.platform(v1alpha1.ConditionPermitted, "RightsComplete")
}

// TestMissingRightsAtTheStart: an operator that may not see what it watches waits, says so where people look, and begins once it may.
func TestMissingRightsAtTheStart(t *testing.T) {
	k := newPlatform(t, "server: {hosts: [attest.example]}\n")
	k.platform(v1alpha1.ConditionPermitted, "RightsComplete")
	k.operator()
	k.probes = freeAddress(t)
	k.grant(lack("watch nodes", "get leases.coordination.k8s.io assay-operator in namespace assay"))
	k.values("server: {hosts: [attest.example, more.example]}\n")
	k.startPlatform()
	message := k.platform(v1alpha1.ConditionPermitted, "PermissionMissing")
	if !strings.Contains(message, "may not watch nodes, may not get leases.coordination.k8s.io assay-operator in namespace assay. ") {
		t.Errorf("message %q", message)
	}
	k.eventually("an Event at the values", func() bool {
		var list corev1.EventList
		if k.kube.List(t.Context(), &list, kube.InNamespace(namespace)) != nil {
			return false
		}
		return slices.ContainsFunc(list.Items, func(e corev1.Event) bool {
			return e.Reason == "PermissionMissing" && e.InvolvedObject.Name == "assay-values" && strings.Contains(e.Message, "watch nodes")
		})
	})
	// The kubelet lets it wait: it lives, and is not ready.
	if code, text := k.probe("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz of an operator that waits: %d %q", code, text)
	}
	if code, text := k.probe("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(text, "may not watch nodes") {
		t.Errorf("/readyz of an operator that waits: %d %q", code, text)
	}
	var p v1alpha1.AttestationPlatform
	if err := k.kube.Get(t.Context(), kube.ObjectKey{Name: "cluster"}, &p); err != nil || len(p.Spec.Server.Hosts) != 1 || meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionReady) {
		t.Errorf("%v: an operator that waits worked: %+v", err, p)
	}
	k.grant(nothing)
	k.platform(v1alpha1.ConditionPermitted, "RightsComplete")
	k.eventually("it works", func() bool {
		return k.kube.Get(t.Context(), kube.ObjectKey{Name: "cluster"}, &p) == nil && len(p.Spec.Server.Hosts) == 2
	})
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} { // only the manager has metrics
		if code, text := k.probe(path); code != http.StatusOK {
			t.Errorf("%s of an operator that works: %d %.200q", path, code, text)
		}
	}
}

// probe asks the operator as the kubelet does.
func (k *kubeWorld) probe(path string) (int, string) {
	k.t.Helper()
	request, err := http.NewRequestWithContext(k.t.Context(), http.MethodGet, "http://"+k.probes+path, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		k.t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// TestReactionWithoutTheRight: a node that failed and cannot be tainted for want of a right is seen to be so; with the right it is tainted.
func TestReactionWithoutTheRight(t *testing.T) {
	k := newKubeWorld(t)
	k.node("a")
	h := k.agentOn("a")
	h.start()
	k.enforce(h, "Enforce", "a")
	k.reason("a", v1alpha1.ConditionTrusted, "Trusted")
	k.nodeIs("a", "labelled", func(n *corev1.Node) bool { return n.Labels[v1alpha1.LabelVerdict] == "Trusted" })
	k.grant(lack("patch nodes"))
	k.platform(v1alpha1.ConditionPermitted, "PermissionMissing")

	h.run("/tmp/intruder", "not approved")
	k.reason("a", v1alpha1.ConditionTrusted, "FileNotInPolicy")
	k.event("a", "ReactionFailed")
	k.eventually("the server knows why", func() bool {
		due, err := k.admin.Reactions(t.Context(), "")
		return err == nil && slices.ContainsFunc(due, func(r api.Reaction) bool {
			return r.State != api.ReactionApplied && strings.Contains(r.Detail, `cannot patch resource "nodes"`)
		})
	})
	k.nodeIs("a", "untouched", func(n *corev1.Node) bool { return !tainted(n) && !n.Spec.Unschedulable })

	// Nodes that come meanwhile are enrolled and judged all the same.
	k.node("b")
	second := k.agentOn("b")
	second.start()
	k.reason("b", v1alpha1.ConditionRegistered, "Enrolled")

	k.grant(nothing)
	k.platform(v1alpha1.ConditionPermitted, "RightsComplete")
	k.nodeIs("a", "quarantined", quarantined)
}

// TestComplaint: another operator's condition that comes between reading and writing stays, and it is enough that one of condition and Event is told.
func TestComplaint(t *testing.T) {
	k := &kubeWorld{world: &world{t: t}}
	k.config, k.kube = newAPIServer(t)
	k.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	if _, err := platform.ApplyCRDs(t.Context(), k.kube, deploy.CRDs()); err != nil {
		t.Fatal(err)
	}
	k.eventually("the platform is made", func() bool {
		made := &unstructured.Unstructured{Object: map[string]any{"apiVersion": v1alpha1.GroupVersion().String(), "kind": "AttestationPlatform", "metadata": map[string]any{"name": "cluster"}}}
		return k.kube.Create(t.Context(), made) == nil
	})
	missing := []rights.Right{{Verb: "watch", Resource: "nodes", Why: "sees no nodes"}}
	const path = "/apis/integrity.assay.dev/v1alpha1/attestationplatforms/cluster/status"
	k.before = func(r *http.Request) {
		var p v1alpha1.AttestationPlatform
		if r.Method != http.MethodPatch || r.URL.Path != path || k.kube.Get(r.Context(), kube.ObjectKey{Name: "cluster"}, &p) != nil || p.Status.Conditions != nil {
			return
		}
		meta.SetStatusCondition(&p.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionAgents, Status: metav1.ConditionTrue, Reason: "Ready", Message: "written meanwhile"})
		if err := k.kube.Status().Update(r.Context(), &p); err != nil {
			t.Error(err)
		}
	}
	for _, row := range []struct {
		name  string
		lacks []string
		told  bool
	}{
		{"all", nil, true},
		{"no Event", []string{"create events", "patch events"}, true},
		{"no condition", []string{"patch attestationplatforms/status.integrity.assay.dev"}, true},
		{"neither", []string{"patch attestationplatforms/status.integrity.assay.dev", "create events", "patch events"}, false},
	} {
		k.grant(lack(row.lacks...))
		c, err := kube.New(k.account(), kube.Options{Scheme: k.kube.Scheme()})
		if err != nil {
			t.Fatal(err)
		}
		complaint := platform.Complaint{Client: c, Namespace: namespace, Values: "assay-values", Now: time.Now}
		k.eventually("the API server knows the rights: "+row.name, func() bool {
			lacking, err := rights.Missing(t.Context(), c, rights.All(rights.Setting{Namespace: namespace}))
			return err == nil && slices.EqualFunc(lacking, row.lacks, func(r rights.Right, words string) bool { return r.String() == words })
		})
		missing[0].Why = row.name // something to write
		if err := complaint.Write(t.Context(), missing); (err == nil) != row.told {
			t.Errorf("%s: %v", row.name, err)
		}
	}
	var p v1alpha1.AttestationPlatform
	if err := k.kube.Get(t.Context(), kube.ObjectKey{Name: "cluster"}, &p); err != nil || !meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionAgents) ||
		!meta.IsStatusConditionFalse(p.Status.Conditions, v1alpha1.ConditionPermitted) {
		t.Errorf("%v: conditions %+v", err, p.Status.Conditions)
	}
}

package rights

import (
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
)

func TestString(t *testing.T) {
	for want, r := range map[string]Right{
		"patch nodes": {Verb: "patch", Resource: "nodes"},
		"patch nodereports/status.integrity.assay.dev":                 {Verb: "patch", Group: "integrity.assay.dev", Resource: "nodereports", Subresource: "status"},
		"get leases.coordination.k8s.io assay-operator in namespace a": {Verb: "get", Group: "coordination.k8s.io", Resource: "leases", Name: "assay-operator", Namespace: "a"},
	} {
		if got := r.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestGranted: a rule grants what it names and nothing beside it.
func TestGranted(t *testing.T) {
	r := Right{Verb: "patch", Group: "apps", Resource: "deployments", Name: "assay-operator"}
	rule := func(verb, group, resource string, names ...string) authorizationv1.ResourceRule {
		return authorizationv1.ResourceRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: names}
	}
	status := Right{Verb: "patch", Group: "apps", Resource: "deployments", Subresource: "status"}
	for name, row := range map[string]struct {
		right Right
		rule  authorizationv1.ResourceRule
		want  bool
	}{
		"all of the kind":          {r, rule("patch", "apps", "deployments"), true},
		"this one":                 {r, rule("patch", "apps", "deployments", "other", "assay-operator"), true},
		"everything":               {r, rule("*", "*", "*"), true},
		"another verb":             {r, rule("get", "apps", "deployments"), false},
		"another group":            {r, rule("patch", "", "deployments"), false},
		"another resource":         {r, rule("patch", "apps", "daemonsets"), false},
		"another one":              {r, rule("patch", "apps", "deployments", "other"), false},
		"one, where all are due":   {Right{Verb: "patch", Group: "apps", Resource: "deployments"}, rule("patch", "apps", "deployments", "one"), false},
		"the status":               {status, rule("patch", "apps", "deployments/status"), true},
		"the kind, not its status": {status, rule("patch", "apps", "deployments"), false},
	} {
		if got := granted([]authorizationv1.ResourceRule{rule("get", "", "pods"), row.rule}, row.right); got != row.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if granted(nil, r) {
		t.Error("no rule grants something")
	}
}

func TestExplain(t *testing.T) {
	all := All(Setting{Namespace: "assay"})
	text := Explain(all[:1])
	if !strings.HasPrefix(text, "the operator may not get attestationplatforms.integrity.assay.dev. Without that it sees no policies") || strings.Contains(text, "more rights") {
		t.Errorf("%q", text)
	}
	if text := Explain(all); len(text) > 2000 || !strings.Contains(text, "more rights") || !strings.Contains(text, "helm upgrade") {
		t.Errorf("%d bytes: %q", len(text), text)
	}
}

func TestSettings(t *testing.T) {
	certificates := func(r Right) bool { return r.Group == "cert-manager.io" }
	if slices.ContainsFunc(All(Setting{Namespace: "a"}), certificates) || !slices.ContainsFunc(All(Setting{Namespace: "a", CertManager: true}), certificates) {
		t.Error("the rights at cert-manager belong to its use")
	}
	start := ToStart(Setting{Namespace: "a"})
	if i := slices.IndexFunc(start, func(r Right) bool { return r.Verb == "watch" && r.Resource == "nodes" && r.Namespace == "" }); i < 0 || len(start) >= len(All(Setting{Namespace: "a"})) {
		t.Errorf("to start: %v", start)
	}
	for _, r := range All(Setting{Namespace: "a", CertManager: true}) {
		if r.Why == "" || r.Verb == "*" || r.Resource == "*" {
			t.Errorf("%+v", r)
		}
	}
}

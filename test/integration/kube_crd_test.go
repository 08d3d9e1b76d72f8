package integration

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kube "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/assay-project/assay/deploy"
	"github.com/assay-project/assay/kube/platform"
)

const okDigest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// TestCRDs has a real API server judge objects. A row without a refusal is the twin of those with one.
func TestCRDs(t *testing.T) {
	_, c := newAPIServer(t)
	applied, err := platform.ApplyCRDs(t.Context(), c, deploy.CRDs())
	if err != nil || len(applied) != 3 {
		t.Fatalf("applied %v, %v", applied, err)
	}
	if again, err := platform.ApplyCRDs(t.Context(), c, deploy.CRDs()); err != nil || len(again) != 0 {
		t.Errorf("applied again: %v, %v", again, err)
	}
	older := &unstructured.Unstructured{}
	older.SetAPIVersion("apiextensions.k8s.io/v1")
	older.SetKind("CustomResourceDefinition")
	if err := c.Get(t.Context(), kube.ObjectKey{Name: applied[0]}, older); err != nil {
		t.Fatal(err)
	}
	older.SetAnnotations(map[string]string{"integrity.assay.dev/revision": "0"})
	if err := c.Update(t.Context(), older); err != nil {
		t.Fatal(err)
	}
	if again, err := platform.ApplyCRDs(t.Context(), c, deploy.CRDs()); err != nil || len(again) != 1 {
		t.Errorf("an older one was not replaced: %v, %v", again, err)
	}

	policy := func(spec string) string { return "pcr: {name: p, digest: '" + okDigest + "'}\n" + spec }
	for name, row := range map[string]struct {
		kind, name, spec string
		refusal          string
	}{
		"platform":                   {"AttestationPlatform", "cluster", "{}", ""},
		"another name":               {"AttestationPlatform", "mine", "{}", "is cluster"},
		"emulated":                   {"AttestationPlatform", "cluster", "agent: {tpm: Emulated, emulatedNodeSelector: {a: b}}", ""},
		"emulated everywhere":        {"AttestationPlatform", "cluster", "agent: {tpm: Emulated}", "emulatedNodeSelector"},
		"reached by name":            {"AttestationPlatform", "cluster", "agent: {hostNetwork: true, contact: NodeName}", ""},
		"pods reached by name":       {"AttestationPlatform", "cluster", "agent: {contact: NodeName}", "hostNetwork"},
		"an IMA policy":              {"AttestationPlatform", "cluster", "agent: {imaPolicy: Containers}", ""},
		"an IMA policy of words":     {"AttestationPlatform", "cluster", "agent: {imaPolicy: tcb}", "imaPolicy"},
		"issuers":                    {"AttestationPlatform", "cluster", "certificates: {source: CertManager, certManager: {servers: {name: a}, clients: {name: b}}}", ""},
		"one issuer for both":        {"AttestationPlatform", "cluster", "certificates: {source: CertManager, certManager: {servers: {name: a}, clients: {name: a}}}", "separate issuers"},
		"no issuers":                 {"AttestationPlatform", "cluster", "certificates: {source: CertManager}", "certManager"},
		"secrets without the source": {"AttestationPlatform", "cluster", "certificates: {secrets: {server: a, verifier: b, operator: c}}", "secrets belongs"},
		"node ports":                 {"AttestationPlatform", "cluster", "server: {service: {type: NodePort, nodePorts: {api: 30443}}}", ""},
		"node ports of a ClusterIP":  {"AttestationPlatform", "cluster", "server: {service: {nodePorts: {api: 30443}}}", "NodePort"},
		"interval":                   {"AttestationPlatform", "cluster", "server: {interval: 10ms}", "1s to 24h"},
		"by names":                   {"NodePolicy", "p", policy("selector: {names: [a]}"), ""},
		"by a label of ours":         {"NodePolicy", "p", policy("selector: {matchLabels: {assay.node-restriction.kubernetes.io/pool: x}}"), ""},
		"by the bare prefix":         {"NodePolicy", "p", policy("selector: {matchExpressions: [{key: node-restriction.kubernetes.io/pool, operator: Exists}]}"), ""},
		"by a free label":            {"NodePolicy", "p", policy("selector: {matchLabels: {pool: x}}"), "escape"},
		"by a free expression":       {"NodePolicy", "p", policy("selector: {matchExpressions: [{key: pool, operator: Exists}]}"), "escape"},
		"by a look-alike":            {"NodePolicy", "p", policy("selector: {matchLabels: {evilnode-restriction.kubernetes.io/pool: x}}"), "escape"},
		"by a suffix of the name":    {"NodePolicy", "p", policy("selector: {matchLabels: {pool/node-restriction.kubernetes.io: x}}"), "escape"},
		"free labels, accepted":      {"NodePolicy", "p", policy("selector: {matchLabels: {pool: x}, acceptNodeWritableLabels: true}"), ""},
		"names and labels":           {"NodePolicy", "p", policy("selector: {names: [a], matchLabels: {node-restriction.kubernetes.io/a: b}}"), "either"},
		"nothing selected":           {"NodePolicy", "p", policy("selector: {}"), "either"},
		"no document":                {"NodePolicy", "p", "selector: {names: [a]}", "at least one document"},
		"a short digest":             {"NodePolicy", "p", "selector: {names: [a]}\npcr: {name: p, digest: 'sha256:aa'}", "digest"},
		"reactions":                  {"NodePolicy", "p", policy("selector: {names: [a]}\nmode: Enforce\nreactions: {kinds: [Taint, Cordon], budget: 10%}\nwhenSilent: {kinds: [Taint], after: 10m}"), ""},
		"a budget of words":          {"NodePolicy", "p", policy("selector: {names: [a]}\nreactions: {kinds: [Taint], budget: some}"), "budget"},
		"a budget of 110%":           {"NodePolicy", "p", policy("selector: {names: [a]}\nreactions: {kinds: [Taint], budget: 110%}"), "budget"},
		"a negative budget":          {"NodePolicy", "p", policy("selector: {names: [a]}\nreactions: {kinds: [Taint], budget: -1}"), "budget"},
		"a reaction that is none":    {"NodePolicy", "p", policy("selector: {names: [a]}\nreactions: {kinds: [Delete]}"), "Delete"},
		"cordon of a silent node":    {"NodePolicy", "p", policy("selector: {names: [a]}\nwhenSilent: {kinds: [Cordon]}"), "Cordon"},
		"values for Exists":          {"NodePolicy", "p", policy("selector: {matchExpressions: [{key: node-restriction.kubernetes.io/a, operator: Exists, values: [x]}]}"), "need values"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := map[string]any{}
			if err := yaml.Unmarshal([]byte(row.spec), &spec); err != nil {
				t.Fatal(err)
			}
			o := &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": "integrity.assay.dev/v1alpha1", "kind": row.kind, "metadata": map[string]any{"name": row.name}, "spec": spec,
			}}
			err := c.Create(t.Context(), o, kube.DryRunAll)
			if row.refusal == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if row.refusal != "" && (err == nil || !strings.Contains(err.Error(), row.refusal)) {
				t.Errorf("got %v, want a refusal with %q", err, row.refusal)
			}
		})
	}
}

package chart

import (
	"bytes"
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/assay-project/assay/kube/rights"
	"github.com/assay-project/assay/kube/v1alpha1"
)

const (
	root   = "../.."
	folder = root + "/deploy/chart"
)

var update = flag.Bool("update", false, "write the golden files anew")

var program = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	return Program(ctx, root)
})

// helm runs Helm and returns both of its outputs.
func helm(t *testing.T, arguments ...string) (stdout, stderr string, err error) {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), path, arguments...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var out, text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &text
	err = cmd.Run()
	return out.String(), text.String(), err
}

// variant is a set of values that people use.
type variant struct {
	name      string
	arguments []string
}

func variants() []variant {
	const registry = "images.registry=registry.example/assay"
	set := func(name string, values ...string) variant {
		v := variant{name: name}
		for _, value := range append([]string{registry, "images.tag=v1"}, values...) {
			v.arguments = append(v.arguments, "--set", value)
		}
		return v
	}
	openshift := set("openshift", "agent.hostNetwork=true")
	openshift.arguments = append(openshift.arguments, "--api-versions", "security.openshift.io/v1")
	return []variant{
		set("default"),
		set("external", "server.external.address=attest.example:8443", "server.external.joinTokenSecret=assay-join-token", "server.external.operatorSecret=assay-operator-cert", "agent.hostNetwork=true", "agent.contact=NodeName", "reactionsSuspended=true"),
		set("emulated", "agent.tpm=Emulated", "agent.emulatedNodeSelector.lab=laptop"),
		set("privileged", "agent.form=Privileged", "agent.imaPolicy=Containers", "operator.replicas=2", "operator.priorityClassName=system-cluster-critical", "images.pullSecrets={pull}", "images.agent=registry.example/assay/assay-agent@sha256:"+strings.Repeat("0", 64)),
		set("certmanager", "certificates.source=CertManager", "certificates.certManager.servers.name=a", "certificates.certManager.clients.name=b", "certificates.certManager.clients.kind=ClusterIssuer", "cleanup.enabled=false", "server.service.type=NodePort", "server.service.nodePorts.api=30443", "server.storage.className=fast"),
		openshift,
	}
}

func (v variant) render(t *testing.T) string {
	t.Helper()
	out, text, err := helm(t, append([]string{"template", "assay", folder, "--namespace", "assay-system", "--kube-version", "1.36.0"}, v.arguments...)...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", v.name, err, text)
	}
	return out
}

func TestGolden(t *testing.T) {
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			got := v.render(t)
			file := filepath.Join("testdata", v.name+".yaml")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got; go test ./test/chart -update writes it anew):\n%s", diff)
			}
		})
	}
}

// TestNotes reads what a person sees after the installation.
func TestNotes(t *testing.T) {
	for name, want := range map[string]string{"default": "every node is Unappraised", "external": "The control plane runs at attest.example:8443", "emulated": "EMULATED TPM"} {
		i := slices.IndexFunc(variants(), func(v variant) bool { return v.name == name })
		out, text, err := helm(t, append([]string{"install", "assay", folder, "--namespace", "assay-system", "--dry-run=client"}, variants()[i].arguments...)...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v %s: the notes do not say %q", name, err, text, want)
		}
	}
}

func TestLint(t *testing.T) {
	for _, v := range variants() {
		if v.name == "openshift" {
			continue // helm lint knows no further APIs
		}
		if out, text, err := helm(t, append([]string{"lint", "--strict", folder}, v.arguments...)...); err != nil {
			t.Errorf("%s: %v\n%s%s", v.name, err, out, text)
		}
	}
}

// TestRefusedValues: each mistake is refused, with the key and what to do. Without it the same values render.
func TestRefusedValues(t *testing.T) {
	tests := []struct{ set, want string }{
		{"images.registry=", "images.registry is empty: give the registry that make publish pushed to"},
		{"images.registry=https://r.example", `images.registry: "https://r.example" is not host[:port][/path], without a scheme`},
		{"images.regstry=r", "at '/images': additional properties 'regstry' not allowed"},
		{"images.tag=a:b", "at '/images/tag': 'a:b' does not match pattern"},
		{"images.pullPolicy=Sometimes", "at '/images/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'"},
		{"agent.form=Soft", "at '/agent/form': value must be one of 'Hardened', 'Privileged'"},
		{"agent.tpm=Virtual", "at '/agent/tpm': value must be one of 'Device', 'Emulated'"},
		{"agent.deviceShares=0", "at '/agent/deviceShares': minimum: got 0, want 1"},
		{"agent.hostNetwork=ja", "at '/agent/hostNetwork': got string, want boolean"},
		{"agent.imaPolicy=tcb", "at '/agent/imaPolicy': value must be one of 'None', 'Host', 'Containers'"},
		{"agent.contact=DNS", "at '/agent/contact': value must be one of 'Address', 'NodeName'"},
		{"agent.contact=NodeName", "agent.contact is NodeName and agent.hostNetwork is false"},
		{"agent.resources.limits.memory=lots", "at '/agent/resources/limits/memory': 'lots' does not match pattern"},
		{"agent.tolerations[0].effect=Never", "at '/agent/tolerations/0/effect': value must be one of"},
		{"agent.heartbeat=often", `agent.heartbeat: "often" is not a duration, such as 30s, 5m or 1h30m`},
		{"agent.tpm=Emulated", "agent.tpm is Emulated: name the nodes that get an emulated TPM in agent.emulatedNodeSelector"},
		{"agent.emulatedNodeSelector.a=b", "agent.emulatedNodeSelector is set and agent.tpm is Device"},
		{"server.interval=soon", `server.interval: "soon" is not a duration`},
		{"server.interval=30", "at '/server/interval': got number, want string"},
		{"server.endorsement=Any", "at '/server/endorsement': value must be one of 'Required', 'AllowFirstUse'"},
		{"server.hosts={a/b}", "at '/server/hosts/0': 'a/b' does not match pattern"},
		{"server.service.type=Ingress", "at '/server/service/type': value must be one of 'ClusterIP', 'NodePort', 'LoadBalancer'"},
		{"server.service.nodePorts.api=30443", "server.service.nodePorts is set and server.service.type is ClusterIP"},
		{"server.storage.existingClaim=a,server.storage.className=b", "server.storage.existingClaim a has its own class"},
		{"server.external.address=a.example", "at '/server/external': missing properties 'joinTokenSecret', 'operatorSecret'"},
		{"server.external.address=https://a.example,server.external.joinTokenSecret=a,server.external.operatorSecret=b", "at '/server/external/address': 'https://a.example' does not match pattern"},
		{"certificates.source=Own", "at '/certificates/source': value must be one of 'BuiltIn', 'CertManager', 'Secrets'"},
		{"certificates.overlap=soon", `certificates.overlap: "soon" is not a duration`},
		{"certificates.source=Secrets", "certificates.source is Secrets: name them in certificates.secrets.server, .verifier and .operator"},
		{"certificates.source=CertManager", "certificates.source is CertManager: name the issuers"},
		{"certificates.secrets.server=a", "at '/certificates/secrets': missing properties 'verifier', 'operator'"},
		{"certificates.secrets.server=a,certificates.secrets.verifier=b,certificates.secrets.operator=c", "certificates.secrets is set and certificates.source is BuiltIn"},
		{"certificates.certManager.servers.name=a,certificates.certManager.clients.name=b", "certificates.certManager is set and certificates.source is BuiltIn"},
		{"certificates.source=CertManager,certificates.certManager.servers.name=a,certificates.certManager.clients.name=a", "servers and clients both name the issuer a"},
		{"operator.replicas=0", "at '/operator/replicas': minimum: got 0, want 1"},
		{"operator.logLevel=loud", "at '/operator/logLevel': value must be one of"},
		{"cleanup.timeoutSeconds=1", "at '/cleanup/timeoutSeconds': minimum: got 1, want 10"},
		{"reactionsSuspended=maybe", "at '/reactionsSuspended': got string, want boolean"},
		{"sever.interval=1s", "additional properties 'sever' not allowed"},
	}
	for _, test := range tests {
		out, text, err := helm(t, "template", "assay", folder, "--set", "images.registry=registry.example/assay", "--set", test.set)
		if err == nil || !strings.Contains(text, test.want) {
			t.Errorf("%s: %v, %q does not say %q", test.set, err, text, test.want)
		}
		if out != "" {
			t.Errorf("%s: rendered %d bytes", test.set, len(out))
		}
	}
	variants()[0].render(t)
}

// object is a rendered object, as far as these tests look.
type object struct {
	Kind     string
	Metadata struct{ Name, Namespace string }
	Data     map[string]string
	Rules    []struct{ APIGroups, Resources, ResourceNames, Verbs []string }
}

func objects(t *testing.T, rendered string) []object {
	t.Helper()
	var all []object
	for part := range strings.SplitSeq(rendered, "\n---\n") {
		var o object
		if err := yaml.Unmarshal([]byte(part), &o); err != nil {
			t.Fatal(err)
		}
		if o.Kind != "" {
			all = append(all, o)
		}
	}
	return all
}

// TestSpec: the operator reads what the chart writes, with nothing unknown in it.
func TestSpec(t *testing.T) {
	for _, v := range variants() {
		found := false
		for _, o := range objects(t, v.render(t)) {
			if o.Kind != "ConfigMap" || o.Metadata.Name != "assay-values" {
				continue
			}
			found = true
			var spec v1alpha1.PlatformSpec
			if err := yaml.UnmarshalStrict([]byte(o.Data["spec.yaml"]), &spec); err != nil {
				t.Errorf("%s: %v", v.name, err)
			}
			if (v.name == "external") != (spec.Server.External != nil) || (v.name == "emulated") != (spec.Agent.TPM == v1alpha1.TPMEmulated) {
				t.Errorf("%s: %+v", v.name, spec)
			}
		}
		if !found {
			t.Errorf("%s: no ConfigMap assay-values", v.name)
		}
	}
}

// TestSchemaIsTheCRD: each key of the AttestationPlatform can be set by a value of the same name, and no other.
func TestSchemaIsTheCRD(t *testing.T) {
	type schema struct {
		Properties map[string]schema
		Versions   []struct {
			Schema struct{ OpenAPIV3Schema schema }
		}
		Spec *schema
	}
	read := func(file string, into *schema) {
		data, err := os.ReadFile(filepath.Join(folder, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
	}
	var values, crd schema
	read("values.schema.json", &values)
	read("crds/integrity.assay.dev_attestationplatforms.yaml", &crd)
	var keys func(s schema, at string) []string
	keys = func(s schema, at string) []string {
		var all []string
		for key, below := range s.Properties {
			all = append(all, at+key)
			// Kubernetes' own types are not spelled out.
			if key != "resources" && key != "tolerations" {
				all = append(all, keys(below, at+key+".")...)
			}
		}
		slices.Sort(all)
		return all
	}
	spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	own := []string{"images.registry", "images.tag"}
	got := slices.DeleteFunc(keys(values, ""), func(key string) bool {
		return slices.Contains(own, key) || slices.Contains([]string{"operator", "cleanup", "global"}, strings.SplitN(key, ".", 2)[0])
	})
	if diff := cmp.Diff(keys(spec, ""), got); diff != "" {
		t.Errorf("keys of the CRD and of values.schema.json (-CRD +schema):\n%s", diff)
	}
}

// TestRights: what the operator may never do.
func TestRights(t *testing.T) {
	for _, v := range variants() {
		for _, o := range objects(t, v.render(t)) {
			for _, rule := range o.Rules {
				for _, list := range [][]string{rule.APIGroups, rule.Resources, rule.Verbs} {
					if slices.Contains(list, "*") {
						t.Errorf("%s: %s %s has a wildcard: %+v", v.name, o.Kind, o.Metadata.Name, rule)
					}
				}
				for _, resource := range rule.Resources {
					if o.Kind == "ClusterRole" && slices.Contains([]string{"secrets", "configmaps", "pods", "pods/exec", "serviceaccounts/token", "nodes/status", "nodes/proxy", "clusterroles", "clusterrolebindings"}, resource) {
						t.Errorf("%s: the operator reaches %s of the whole cluster", v.name, resource)
					}
					if resource == "customresourcedefinitions" && len(rule.ResourceNames) == 0 && !slices.Equal(rule.Verbs, []string{"create"}) {
						t.Errorf("%s: the operator may %v every CRD", v.name, rule.Verbs)
					}
				}
			}
		}
	}
}

// TestRightsAreTheOperators: the chart grants what the operator asks for at its start, neither less nor more.
func TestRightsAreTheOperators(t *testing.T) {
	for _, v := range variants() {
		granted, wanted := map[string]bool{}, map[string]bool{}
		for _, o := range objects(t, v.render(t)) {
			if o.Metadata.Name != "assay-operator" || o.Kind != "ClusterRole" && o.Kind != "Role" {
				continue
			}
			for _, rule := range o.Rules {
				if len(rule.ResourceNames) == 0 {
					rule.ResourceNames = []string{""}
				}
				for _, group := range rule.APIGroups {
					for _, resource := range rule.Resources {
						for _, name := range rule.ResourceNames {
							for _, verb := range rule.Verbs {
								kind, sub, _ := strings.Cut(resource, "/")
								granted[rights.Right{Verb: verb, Group: group, Resource: kind, Subresource: sub, Name: name, Namespace: o.Metadata.Namespace}.String()] = true
							}
						}
					}
				}
			}
		}
		for _, r := range rights.All(rights.Setting{Namespace: "assay-system", CertManager: v.name == "certmanager"}) {
			if wanted[r.String()] {
				t.Errorf("%s: the table names twice: %s", v.name, r)
			}
			wanted[r.String()] = true
		}
		if diff := cmp.Diff(wanted, granted); diff != "" {
			t.Errorf("%s: rights (-kube/rights +rbac.yaml):\n%s", v.name, diff)
		}
	}
}

// TestMakeMistakes: who forgets where to is told, before anything is built or asked.
func TestMakeMistakes(t *testing.T) {
	for arguments, want := range map[string]string{
		"deploy TAG=v1": "REGISTRY is empty: give what make publish got", "deploy REGISTRY=registry.example": "TAG is empty: give what make publish got",
		"publish TAG=v1": "REGISTRY is empty: give host[:port][/path]", "publish REGISTRY=registry.example": "TAG is empty: give the tag",
	} {
		cmd := exec.CommandContext(t.Context(), "make", append([]string{"-C", root, "REGISTRY=", "TAG="}, strings.Fields(arguments)...)...)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), want) {
			t.Errorf("make %s: %v, %q does not say %q", arguments, err, out, want)
		}
	}
}

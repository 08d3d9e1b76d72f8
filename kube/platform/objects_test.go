package platform

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/assay-project/assay/agent"
	"github.com/assay-project/assay/cmd/assay/serve"
	"github.com/assay-project/assay/internal/conf"
	"github.com/assay-project/assay/kube/v1alpha1"
)

func plain(change func(*v1alpha1.PlatformSpec)) input {
	in := input{namespace: "assay", images: v1alpha1.Images{Server: "server:1", Agent: "agent:1", Operator: "operator:1", Swtpm: "swtpm:1"}, mark: "1", server: SecretServer, verifier: SecretVerifier}
	in.serverCAs, in.clientCAs = []byte("servers"), []byte("clients")
	if change != nil {
		change(&in.spec)
	}
	return in
}

func kindsAndNames(list []client.Object) []string {
	var out []string
	for _, o := range list {
		out = append(out, o.GetObjectKind().GroupVersionKind().Kind+"/"+o.GetName())
	}
	return out
}

func external(s *v1alpha1.PlatformSpec) {
	s.Server.External = &v1alpha1.ExternalServer{Address: "attest.example", Registrar: "attest.example:8891", JoinTokenSecret: "join", OperatorSecret: "op"}
}

func emulated(s *v1alpha1.PlatformSpec) {
	s.Agent.TPM, s.Agent.EmulatedNodeSelector = v1alpha1.TPMEmulated, map[string]string{"laptop": "yes"}
}

func TestObjects(t *testing.T) {
	common := []string{"ServiceAccount/assay-agent", "ConfigMap/assay-ca"}
	server := []string{"ServiceAccount/assay-server", "ConfigMap/assay-server", "Service/assay-server", "StatefulSet/assay-server"}
	plugin := []string{"ConfigMap/assay-agent", "ServiceAccount/assay-device-plugin", "DaemonSet/assay-device-plugin"}
	join := func(lists ...[]string) (all []string) {
		for _, l := range lists {
			all = append(all, l...)
		}
		return all
	}
	no := false
	for name, row := range map[string]struct {
		change func(*v1alpha1.PlatformSpec)
		want   []string
	}{
		"plain":            {nil, join(common, server, plugin, []string{"DaemonSet/assay-agent", "DaemonSet/assay-agent-notpm"})},
		"privileged":       {func(s *v1alpha1.PlatformSpec) { s.Agent.Form = v1alpha1.FormPrivileged }, join(common, server, plugin, []string{"DaemonSet/assay-agent-privileged", "DaemonSet/assay-agent-notpm"})},
		"server elsewhere": {external, join(common, plugin, []string{"DaemonSet/assay-agent", "DaemonSet/assay-agent-notpm"})},
		"emulated":         {emulated, join(common, server, plugin, []string{"DaemonSet/assay-agent", "DaemonSet/assay-agent-notpm", "ConfigMap/assay-agent-emulated", "DaemonSet/assay-agent-emulated"})},
		"another plugin":   {func(s *v1alpha1.PlatformSpec) { s.Agent.DevicePlugin = &no }, join(common, server, plugin[:1], []string{"DaemonSet/assay-agent", "DaemonSet/assay-agent-notpm"})},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(row.want, kindsAndNames(plain(row.change).objects())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestConfigurations has the programs themselves read what is written for them.
func TestConfigurations(t *testing.T) {
	for name, in := range map[string]input{"plain": plain(nil), "external": plain(external), "emulated": plain(emulated)} {
		for _, o := range in.objects() {
			config, ok := o.(*corev1.ConfigMap)
			if !ok {
				continue
			}
			if text, ok := config.Data["agent.yaml"]; ok {
				target := agent.DefaultConfig()
				load(t, name, text, &target)
			}
			if text, ok := config.Data["server.yaml"]; ok {
				target := serve.Default()
				load(t, name, text, &target)
			}
		}
	}
}

func pods(list []client.Object) map[string]corev1.PodSpec {
	specs := map[string]corev1.PodSpec{}
	for _, o := range list {
		switch o := o.(type) {
		case *appsv1.DaemonSet:
			specs[o.Name] = o.Spec.Template.Spec
		case *appsv1.StatefulSet:
			specs[o.Name] = o.Spec.Template.Spec
		}
	}
	return specs
}

// TestHardened: nothing but the privileged form is privileged, no pod gets an API token, and nothing mounts the authorities' keys.
func TestHardened(t *testing.T) {
	for _, change := range []func(*v1alpha1.PlatformSpec){nil, external, emulated} {
		for name, pod := range pods(plain(change).objects()) {
			if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken || pod.HostPID || pod.HostIPC || pod.HostNetwork {
				t.Errorf("%s: %+v", name, pod)
			}
			if pod.EnableServiceLinks == nil || *pod.EnableServiceLinks {
				t.Errorf("%s: variables of our Service would be taken for its configuration", name)
			}
			if pod.SecurityContext.SeccompProfile == nil {
				t.Errorf("%s has no seccomp profile", name)
			}
			for _, v := range pod.Volumes {
				if v.Secret != nil && v.Secret.SecretName == SecretAuthorities {
					t.Errorf("%s mounts the authorities", name)
				}
			}
			for _, c := range append(pod.InitContainers, pod.Containers...) {
				s := c.SecurityContext
				if s.Privileged != nil || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation || !cmp.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
					t.Errorf("%s/%s: %+v", name, c.Name, s)
				}
				if len(s.Capabilities.Add) > 0 && c.Name != "agent" {
					t.Errorf("%s/%s adds %v", name, c.Name, s.Capabilities.Add)
				}
			}
		}
	}
	privileged := pods(plain(func(s *v1alpha1.PlatformSpec) { s.Agent.Form = v1alpha1.FormPrivileged }).objects())[NamePrivileged]
	if p := privileged.Containers[0].SecurityContext.Privileged; p == nil || !*p {
		t.Error("the privileged form is not privileged")
	}
}

// TestEnvironment has the agent read the variables of each form.
func TestEnvironment(t *testing.T) {
	for name, pod := range pods(plain(emulated).objects()) {
		for _, c := range pod.Containers {
			if c.Name != "agent" {
				continue
			}
			environ := []string{"ASSAY_SERVER=attest.example", "ASSAY_CA=/ca"}
			for _, v := range c.Env {
				if v.ValueFrom != nil {
					v.Value = "192.0.2.1"
				}
				environ = append(environ, v.Name+"="+v.Value)
			}
			target := agent.DefaultConfig()
			if err := conf.Load(conf.Source{Environ: environ}, &target); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if emulated := name == NameEmulated; emulated != (target.IMAList == "") || emulated != (target.TPM == "swtpm:/run/swtpm/tpm.sock") || target.Contact.Address != "192.0.2.1" {
				t.Errorf("%s: %+v", name, target)
			}
		}
	}
}

// TestIMAPolicy: agents beside a real TPM install the policy in the host's folder, with no further capability; no other pod sees that folder.
func TestIMAPolicy(t *testing.T) {
	for name, row := range map[string]struct {
		change func(*v1alpha1.PlatformSpec)
		want   string // the DaemonSet that installs
	}{
		"absent":     {emulated, ""},
		"none":       {func(s *v1alpha1.PlatformSpec) { s.Agent.IMAPolicy = v1alpha1.IMAPolicyNone }, ""},
		"hardened":   {func(s *v1alpha1.PlatformSpec) { emulated(s); s.Agent.IMAPolicy = "Host" }, NameAgent},
		"privileged": {func(s *v1alpha1.PlatformSpec) { s.Agent.Form, s.Agent.IMAPolicy = v1alpha1.FormPrivileged, "Host" }, NamePrivileged},
	} {
		for daemon, pod := range pods(plain(row.change).objects()) {
			for _, c := range pod.Containers {
				target := agent.DefaultConfig()
				for _, v := range c.Env {
					if v.Name == "ASSAY_IMAPOLICY_INSTALL" {
						load(t, name, "server: a\nca: /ca\nimaPolicy: {install: "+v.Value+"}\n", &target)
					}
				}
				var mounts, volumes []string
				for _, m := range c.VolumeMounts {
					if m.Name == "ima" && !m.ReadOnly {
						mounts = append(mounts, m.MountPath)
					}
				}
				for _, v := range pod.Volumes {
					if v.HostPath != nil && v.Name == "ima" {
						volumes = append(volumes, v.HostPath.Path)
					}
				}
				want, folder := "None", []string(nil)
				if daemon == row.want {
					want, folder = "Host", []string{filepath.Dir(target.IMAPolicy.Path)}
				}
				if target.IMAPolicy.Install != want || !cmp.Equal(mounts, folder) || !cmp.Equal(volumes, folder) {
					t.Errorf("%s: %s installs %s, mounts %v of %v; want %s in %v", name, daemon, target.IMAPolicy.Install, mounts, volumes, want, folder)
				}
				if daemon == NameAgent && !cmp.Equal(c.SecurityContext.Capabilities.Add, agentCapabilities()) {
					t.Errorf("%s: capabilities %v", name, c.SecurityContext.Capabilities.Add)
				}
			}
		}
	}
}

// TestContact: every form of the agent tells the server the same field of its pod.
func TestContact(t *testing.T) {
	byName := func(s *v1alpha1.PlatformSpec) {
		emulated(s)
		s.Agent.HostNetwork, s.Agent.Contact = true, v1alpha1.ContactNodeName
	}
	for want, change := range map[string]func(*v1alpha1.PlatformSpec){"status.podIP": emulated, "spec.nodeName": byName} {
		agents := 0
		for name, pod := range pods(plain(change).objects()) {
			if !strings.HasPrefix(name, NameAgent) {
				continue
			}
			agents++
			if got := pod.Containers[0].Env[0]; got.Name != "ASSAY_CONTACT_ADDRESS" || got.ValueFrom.FieldRef.FieldPath != want {
				t.Errorf("%s: %+v, want the field %s", name, got, want)
			}
			if pod.HostNetwork != (want == "spec.nodeName") {
				t.Errorf("%s: host network %t", name, pod.HostNetwork)
			}
		}
		if agents != 3 {
			t.Errorf("%d agents, want 3", agents)
		}
	}
}

// TestOneAgentForEachNode: labels decide, and no node gets two.
func TestOneAgentForEachNode(t *testing.T) {
	all := pods(plain(emulated).objects())
	for name, want := range map[string]string{NameAgent: "true", NameWithoutTPM: "false"} {
		if got := all[name].NodeSelector[v1alpha1.LabelTPM]; got != want {
			t.Errorf("%s runs where %s=%q", name, v1alpha1.LabelTPM, got)
		}
		terms := all[name].Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		if len(terms) != 1 || terms[0].MatchExpressions[0].Operator != corev1.NodeSelectorOpNotIn {
			t.Errorf("%s runs beside an emulated TPM: %+v", name, terms)
		}
	}
	if all[NameEmulated].NodeSelector["laptop"] != "yes" || all[NameEmulated].Affinity != nil {
		t.Errorf("emulated: %+v", all[NameEmulated])
	}
	if share := all[NameAgent].Containers[0].Resources.Limits[v1alpha1.ResourceTPM]; share.Value() != 1 {
		t.Errorf("the agent asks for %v TPMs", share)
	}
}

func TestAddress(t *testing.T) {
	for address, want := range map[string]string{"attest.example": "attest.example:8443", "attest.example:443": "attest.example:443", "192.0.2.1": "192.0.2.1:8443", "[2001:db8::1]": "[2001:db8::1]:8443", "2001:db8::1": "[2001:db8::1]:8443"} {
		spec := v1alpha1.PlatformSpec{Server: v1alpha1.ServerSpec{External: &v1alpha1.ExternalServer{Address: address}}}
		if got := Address(spec, "x"); got != want {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
	if got := Address(v1alpha1.PlatformSpec{}, "x"); got != "assay-server.x.svc:8443" {
		t.Errorf("got %s", got)
	}
}

func TestParseValues(t *testing.T) {
	good, err := parseValues(map[string]string{"spec.yaml": "reactionsSuspended: true\nserver: {interval: 5s}"})
	if err != nil || good.GetName() != "cluster" {
		t.Fatalf("%v, %v", good, err)
	}
	for text, want := range map[string]string{"serverr: {}": "serverr", "a: [": "yaml", "server: 7": "server", "reactionsSuspended: true\nreactionsSuspended: false": "already"} {
		if _, err := parseValues(map[string]string{"spec.yaml": text}); err == nil || !strings.Contains(err.Error(), "spec.yaml") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want it to say %q", text, err, want)
		}
	}
	if _, err := parseValues(nil); err == nil {
		t.Error("no values: accepted")
	}
}

func TestStrip(t *testing.T) {
	n := &corev1.Node{}
	n.Labels = map[string]string{"team": "x", v1alpha1.LabelTPM: "true", v1alpha1.LabelVerdict: "Failed"}
	n.Spec.Taints = []corev1.Taint{{Key: "other"}, {Key: v1alpha1.TaintUntrusted}}
	n.Spec.Unschedulable = true
	if !strip(n, false) || !cmp.Equal(n.Labels, map[string]string{"team": "x"}) || len(n.Spec.Taints) != 1 || !n.Spec.Unschedulable {
		t.Errorf("left %+v", n)
	}
	if strip(n, false) {
		t.Error("stripped twice")
	}
	if !strip(n, true) || n.Spec.Unschedulable {
		t.Error("a cordon of ours stayed")
	}
}

func load(t *testing.T, name, text string, target any) {
	t.Helper()
	if err := conf.Load(conf.Source{Path: file(t, text)}, target); err != nil {
		t.Errorf("%s: %v in\n%s", name, err, text)
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Another configuration is another pod, and the same one is not: a program reads its file once.
func TestConfigurationsStartPodsAnew(t *testing.T) {
	digest := func(change func(*v1alpha1.PlatformSpec), name string) string {
		for _, o := range plain(change).objects() {
			switch o := o.(type) {
			case *appsv1.StatefulSet:
				if o.Name == name {
					return o.Spec.Template.Annotations[AnnotationConfig]
				}
			case *appsv1.DaemonSet:
				if o.Name == name {
					return o.Spec.Template.Annotations[AnnotationConfig]
				}
			}
		}
		t.Fatalf("no %s", name)
		return ""
	}
	slower := func(s *v1alpha1.PlatformSpec) { s.Server.Interval = metav1.Duration{Duration: time.Minute} }
	rarer := func(s *v1alpha1.PlatformSpec) { s.Agent.Heartbeat = metav1.Duration{Duration: time.Minute} }
	server, agents := digest(nil, NameServer), digest(nil, NameAgent)
	if server == "" || agents == "" || digest(nil, NameServer) != server || digest(rarer, NameServer) != server || digest(slower, NameAgent) != agents {
		t.Error("pods start anew without another configuration")
	}
	if digest(slower, NameServer) == server || digest(rarer, NameAgent) == agents {
		t.Error("pods go on with the old configuration")
	}
}

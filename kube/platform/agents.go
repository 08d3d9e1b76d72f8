package platform

import (
	"cmp"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// AnnotationMark on agents' pods changes when they have to start anew for new authorities.
const AnnotationMark = "integrity.assay.dev/authorities"

// AnnotationConfig on pods is the digest of the configuration that they were started with: a program reads its file once, so another file is another
// pod, and a rollout that is complete says that the new values hold.
const AnnotationConfig = "integrity.assay.dev/config"

func digestOf(config string) string { return attest.SHA256.Sum([]byte(config)).String() }

const (
	pathToken      = "/var/run/secrets/assay"
	pathAgentState = "/var/lib/assay-agent"
	pathSwtpm      = "/run/swtpm"
	pathIMA        = "/etc/ima"
	swtpmSocket    = pathSwtpm + "/tpm.sock"
)

func (in input) agentConfig() string {
	config := map[string]any{
		"server": Address(in.spec, in.namespace), "tokenFile": pathToken + "/token", "heartbeat": text(in.spec.Agent.Heartbeat), "stateDir": pathAgentState,
	}
	if e := in.spec.Server.External; e != nil {
		config["joinTokenFile"] = "/etc/assay/join/" + keyToken
		if e.Registrar != "" {
			config["registrar"] = e.Registrar
		}
	} else {
		config["ca"] = pathBundles + "/" + keyServerCAs
	}
	return yamlOf(config)
}

// form is one of the ways in which an agent runs.
type form struct {
	name string
	// tpm is the resource that the pod asks for; privileged opens the device itself.
	tpm, privileged, emulated bool
	// required are labels of the nodes.
	required map[string]string
}

// forms are the DaemonSets of a platform. A node carries one agent: which one, the label of its TPM says, and whether it gets an emulated one.
func (in input) forms() []form {
	withTPM := form{name: NameAgent, tpm: true, required: map[string]string{v1alpha1.LabelTPM: "true"}}
	if in.spec.Agent.Form == v1alpha1.FormPrivileged {
		withTPM = form{name: NamePrivileged, privileged: true, required: map[string]string{v1alpha1.LabelTPM: "true"}}
	}
	list := []form{withTPM, {name: NameWithoutTPM, required: map[string]string{v1alpha1.LabelTPM: "false"}}}
	if in.spec.Agent.TPM == v1alpha1.TPMEmulated {
		list = append(list, form{name: NameEmulated, emulated: true, required: in.spec.Agent.EmulatedNodeSelector})
	}
	return list
}

// installs reports whether agents of a form install an IMA policy: on nodes whose TPM the kernel extends.
func (in input) installs(f form) bool {
	return (f.tpm || f.privileged) && in.spec.Agent.IMAPolicy != "" && in.spec.Agent.IMAPolicy != v1alpha1.IMAPolicyNone
}

// affinity keeps real agents off the nodes with an emulated TPM.
func (in input) affinity(f form) *corev1.Affinity {
	if in.spec.Agent.TPM != v1alpha1.TPMEmulated || f.emulated {
		return nil
	}
	var terms []corev1.NodeSelectorTerm // any of the labels missing or different is enough: terms are alternatives
	for _, key := range sortedKeys(in.spec.Agent.EmulatedNodeSelector) {
		terms = append(terms, corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: key, Operator: corev1.NodeSelectorOpNotIn, Values: []string{in.spec.Agent.EmulatedNodeSelector[key]}},
		}})
	}
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms}}}
}

func (in input) agent(f form) *appsv1.DaemonSet {
	pod := corev1.PodSpec{
		ServiceAccountName: NameAgent, AutomountServiceAccountToken: no(), EnableServiceLinks: no(), HostNetwork: in.spec.Agent.HostNetwork, Tolerations: in.spec.Agent.Tolerations,
		NodeSelector: map[string]string{corev1.LabelOSStable: "linux"}, Affinity: in.affinity(f), PriorityClassName: "system-node-critical",
		Containers: []corev1.Container{in.agentContainer(f)}, Volumes: in.agentVolumes(f),
	}
	maps.Copy(pod.NodeSelector, in.spec.Agent.NodeSelector)
	maps.Copy(pod.NodeSelector, f.required)
	if pod.Tolerations == nil {
		pod.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} // a tainted node has to be attested too, or it never comes back
	}
	if in.spec.Agent.HostNetwork {
		pod.DNSPolicy = corev1.DNSClusterFirstWithHostNet
	}
	group := int64(unprivileged)
	// The token is readable for the user that the agent becomes: by the group. No runAsUser, which would make it root's alone.
	pod.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group, SeccompProfile: runtimeDefault()}
	if f.emulated {
		pod.InitContainers = in.emulator()
	}
	return in.daemonSet(f.name, pod, map[string]string{AnnotationMark: in.mark, AnnotationConfig: digestOf(in.agentConfig())})
}

func (in input) daemonSet(name string, pod corev1.PodSpec, annotations map[string]string) *appsv1.DaemonSet {
	tenth := intstr.FromString("10%")
	return &appsv1.DaemonSet{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "DaemonSet"}, ObjectMeta: in.meta(name, name),
		Spec: appsv1.DaemonSetSpec{
			Selector:       &metav1.LabelSelector{MatchLabels: map[string]string{labelComponent: name}},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &tenth}},
			Template:       corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels(name), Annotations: annotations}, Spec: pod},
		},
	}
}

// agentCapabilities are what the agent needs until it has become an ordinary user; docs/agent.md says what for.
func agentCapabilities() []corev1.Capability {
	return []corev1.Capability{"CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID"}
}

// contact is the field of a pod under which the server reaches its agent.
func (in input) contact() string {
	if in.spec.Agent.Contact == v1alpha1.ContactNodeName {
		return "spec.nodeName"
	}
	return "status.podIP"
}

func (in input) agentContainer(f form) corev1.Container {
	c := corev1.Container{
		Name: "agent", Image: in.images.Agent, ImagePullPolicy: in.spec.Images.PullPolicy, Args: []string{"--config", "/etc/assay/config/agent.yaml"},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		Ports:                    []corev1.ContainerPort{port("agent", portAgent)}, Resources: *in.spec.Agent.Resources.DeepCopy(),
		Env: []corev1.EnvVar{{Name: "ASSAY_CONTACT_ADDRESS", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: in.contact()}}}},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: no(), ReadOnlyRootFilesystem: yes(), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: agentCapabilities()},
		},
		VolumeMounts: []corev1.VolumeMount{
			{Name: "config", MountPath: "/etc/assay/config", ReadOnly: true}, {Name: "token", MountPath: pathToken, ReadOnly: true}, {Name: "state", MountPath: pathAgentState},
			{Name: "security", MountPath: "/sys/kernel/security", ReadOnly: true},
		},
	}
	if in.spec.Server.External != nil {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "join", MountPath: "/etc/assay/join", ReadOnly: true})
	} else {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "bundles", MountPath: pathBundles, ReadOnly: true})
	}
	if in.installs(f) { // root owns the folder, so it takes no capability
		c.Env = append(c.Env, corev1.EnvVar{Name: "ASSAY_IMAPOLICY_INSTALL", Value: in.spec.Agent.IMAPolicy})
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "ima", MountPath: pathIMA})
	}
	switch {
	case f.tpm:
		if c.Resources.Limits == nil {
			c.Resources.Limits = corev1.ResourceList{}
		}
		c.Resources.Limits[v1alpha1.ResourceTPM] = resource.MustParse("1")
	case f.privileged:
		c.SecurityContext = &corev1.SecurityContext{Privileged: yes(), ReadOnlyRootFilesystem: yes()}
	case f.emulated: // the kernel's logs were not extended into this TPM
		c.Env = append(c.Env, corev1.EnvVar{Name: "ASSAY_TPM", Value: "swtpm:" + swtpmSocket}, corev1.EnvVar{Name: "ASSAY_BOOTLOG", Value: ""}, corev1.EnvVar{Name: "ASSAY_IMALIST", Value: ""})
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "swtpm", MountPath: pathSwtpm})
	}
	return c
}

func (in input) agentVolumes(f form) []corev1.Volume {
	expiry := int64(3600)
	list := []corev1.Volume{
		configVolume("config", NameAgent),
		{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "assay", ExpirationSeconds: &expiry, Path: "token"}},
		}}}},
		// The AK's blob outlives the pod: a new AK would have to be approved.
		hostVolume("state", pathAgentState, corev1.HostPathDirectoryOrCreate),
		hostVolume("security", "/sys/kernel/security", corev1.HostPathDirectory),
	}
	if e := in.spec.Server.External; e != nil {
		list = append(list, secretVolume("join", e.JoinTokenSecret))
	} else {
		list = append(list, configVolume("bundles", NameBundles))
	}
	if in.installs(f) {
		list = append(list, hostVolume("ima", pathIMA, corev1.HostPathDirectoryOrCreate))
	}
	if f.emulated {
		list = append(list, emptyVolume("swtpm"), hostVolume("swtpm-state", "/var/lib/assay-swtpm", corev1.HostPathDirectoryOrCreate), configVolume("swtpm-config", NameEmulated), secretVolume("swtpm-ca", SecretEmulated))
	}
	return list
}

// emulator makes the emulated TPM once and then runs it beside the agent.
func (in input) emulator() []corev1.Container {
	root := int64(0)
	always := corev1.ContainerRestartPolicyAlways
	base := corev1.Container{
		Image: in.images.Swtpm, ImagePullPolicy: in.spec.Images.PullPolicy,
		SecurityContext: &corev1.SecurityContext{RunAsUser: &root, AllowPrivilegeEscalation: no(), ReadOnlyRootFilesystem: yes(), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
		VolumeMounts: []corev1.VolumeMount{
			{Name: "swtpm", MountPath: pathSwtpm}, {Name: "swtpm-state", MountPath: "/state"}, {Name: "swtpm-config", MountPath: "/etc/swtpm", ReadOnly: true},
			{Name: "swtpm-ca", MountPath: "/ca", ReadOnly: true}, {Name: "swtpm", MountPath: "/tmp"},
		},
	}
	make, run := *base.DeepCopy(), *base.DeepCopy()
	make.Name, make.Command = "make-tpm", []string{"/usr/bin/swtpm_setup"}
	make.Args = []string{"--tpm2", "--tpmstate", "/state", "--config", "/etc/swtpm/setup.conf", "--create-ek-cert", "--lock-nvram", "--pcr-banks", "sha256", "--not-overwrite"}
	run.Name, run.RestartPolicy = "tpm", &always
	run.Args = []string{"socket", "--tpm2", "--tpmstate", "dir=/state", "--server", "type=unixio,path=" + swtpmSocket, "--flags", "not-need-init,startup-clear"}
	return []corev1.Container{make, run}
}

// devicePlugin offers the TPM to pods. It is unprivileged but for the folder of the kubelet's sockets.
func (in input) devicePlugin() *appsv1.DaemonSet {
	root := int64(0)
	pod := corev1.PodSpec{
		ServiceAccountName: NameDevicePlugin, AutomountServiceAccountToken: no(), EnableServiceLinks: no(), Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		NodeSelector: map[string]string{corev1.LabelOSStable: "linux"}, PriorityClassName: "system-node-critical",
		SecurityContext: &corev1.PodSecurityContext{RunAsUser: &root, SeccompProfile: runtimeDefault()},
		Containers: []corev1.Container{{
			Name: "device-plugin", Image: in.images.Operator, ImagePullPolicy: in.spec.Images.PullPolicy, Args: []string{"device-plugin", "--shares", itoa(cmp.Or(in.spec.Agent.DeviceShares, 8))},
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("5m"), corev1.ResourceMemory: resource.MustParse("24Mi")},
				Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("96Mi")},
			},
			SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: no(), ReadOnlyRootFilesystem: yes(), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			VolumeMounts:    []corev1.VolumeMount{{Name: "plugins", MountPath: "/var/lib/kubelet/device-plugins"}},
		}},
		Volumes: []corev1.Volume{hostVolume("plugins", "/var/lib/kubelet/device-plugins", corev1.HostPathDirectory)},
	}
	return in.daemonSet(NameDevicePlugin, pod, nil)
}

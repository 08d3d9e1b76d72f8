package platform

import (
	"cmp"
	"fmt"
	"net"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/assay-project/assay/kube/v1alpha1"
)

// input is everything that the objects of a platform follow from.
type input struct {
	namespace string
	spec      v1alpha1.PlatformSpec
	// images are the platform's, each with the operator's own where it names none.
	images v1alpha1.Images
	// serverCAs and clientCAs are the bundles, mark is the agents' (authorities.mark).
	serverCAs, clientCAs []byte
	mark                 string
	// certificates are the names of the Secrets in use.
	server, verifier string
}

// objects are all that shall be there, in the order of their making. What runs only by choice is absent when it is not chosen: stale names those
// that are ours and have to go then.
func (in input) objects() []client.Object {
	list := []client.Object{in.account(NameAgent), in.config(NameBundles, map[string]string{keyServerCAs: string(in.serverCAs), keyClientCAs: string(in.clientCAs)})}
	if in.spec.Server.External == nil {
		list = append(list, in.account(NameServer), in.config(NameServer, map[string]string{"server.yaml": in.serverConfig()}), in.service(), in.statefulSet())
	}
	list = append(list, in.config(NameAgent, map[string]string{"agent.yaml": in.agentConfig()}))
	return append(list, in.daemonSets()...)
}

func (in input) daemonSets() []client.Object {
	var list []client.Object
	if in.plugin() {
		list = append(list, in.account(NameDevicePlugin), in.devicePlugin())
	}
	for _, form := range in.forms() {
		if form.emulated {
			list = append(list, in.emulatedConfig())
		}
		list = append(list, in.agent(form))
	}
	return list
}

// plugin says whether the device plugin runs; it also tells which nodes have a TPM.
func (in input) plugin() bool {
	return in.spec.Agent.DevicePlugin == nil || *in.spec.Agent.DevicePlugin
}

func (in input) meta(name, component string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: in.namespace, Labels: labels(component)}
}

func (in input) account(name string) *corev1.ServiceAccount {
	no := false
	secrets := make([]corev1.LocalObjectReference, len(in.spec.Images.PullSecrets))
	for i, s := range in.spec.Images.PullSecrets {
		secrets[i].Name = s
	}
	return &corev1.ServiceAccount{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: in.meta(name, name), AutomountServiceAccountToken: &no, ImagePullSecrets: secrets,
	}
}

func (in input) config(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: in.meta(name, name), Data: data}
}

// yamlOf writes a configuration; its keys are sorted.
func yamlOf(config map[string]any) string {
	text, err := yaml.Marshal(config)
	if err != nil {
		panic(fmt.Sprintf("a map of texts does not become YAML: %v", err)) // it holds nothing but maps, texts and numbers
	}
	return string(text)
}

// text writes a duration; 0 is what the API server would have filled in.
func text(d metav1.Duration) string {
	return cmp.Or(d.Duration, 30*time.Second).String()
}

const (
	pathServerTLS = "/etc/assay/tls/server"
	pathClientTLS = "/etc/assay/tls/client"
	pathBundles   = "/etc/assay/ca"
	pathState     = "/var/lib/assay"
)

func (in input) serverConfig() string {
	return yamlOf(map[string]any{
		"stateDir": pathState, "interval": text(in.spec.Server.Interval), "endorsement": cmp.Or(in.spec.Server.Endorsement, "Required"),
		"listen": map[string]any{"metrics": fmt.Sprintf(":%d", portMetrics)},
		"certificates": map[string]any{
			"server":    map[string]any{"certificate": pathServerTLS + "/" + keyCert, "key": pathServerTLS + "/" + keyKey},
			"client":    map[string]any{"certificate": pathClientTLS + "/" + keyCert, "key": pathClientTLS + "/" + keyKey},
			"serverCAs": pathBundles + "/" + keyServerCAs, "clientCAs": pathBundles + "/" + keyClientCAs,
		},
	})
}

// Address is where the agents and the operator dial the native API: HOST:PORT.
func Address(spec v1alpha1.PlatformSpec, namespace string) string {
	if e := spec.Server.External; e != nil {
		if _, _, err := net.SplitHostPort(e.Address); err == nil {
			return e.Address
		}
		return net.JoinHostPort(strings.Trim(e.Address, "[]"), fmt.Sprint(portAPI))
	}
	return fmt.Sprintf("%s.%s.svc:%d", NameServer, namespace, portAPI)
}

func (in input) service() *corev1.Service {
	spec := in.spec.Server.Service
	ports := []corev1.ServicePort{
		{Name: "api", Port: portAPI, TargetPort: intstr.FromString("api"), Protocol: corev1.ProtocolTCP},
		{Name: "registrar", Port: portRegistrar, TargetPort: intstr.FromString("registrar"), Protocol: corev1.ProtocolTCP},
	}
	if spec.NodePorts != nil {
		ports[0].NodePort, ports[1].NodePort = spec.NodePorts.API, spec.NodePorts.Registrar
	}
	meta := in.meta(NameServer, NameServer)
	meta.Annotations = spec.Annotations
	return &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: meta,
		Spec: corev1.ServiceSpec{Type: cmp.Or(spec.Type, corev1.ServiceTypeClusterIP), Selector: map[string]string{labelComponent: NameServer, labelPart: "assay"}, Ports: ports},
	}
}

// statefulSet is the StatefulSet of the server: one replica, because the embedded database has one writer.
func (in input) statefulSet() *appsv1.StatefulSet {
	one := int32(1)
	id := int64(unprivileged)
	set := &appsv1.StatefulSet{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "StatefulSet"}, ObjectMeta: in.meta(NameServer, NameServer),
		Spec: appsv1.StatefulSetSpec{
			// In order, a pod that never became ready would not be replaced by one that is right.
			PodManagementPolicy: appsv1.ParallelPodManagement,
			Replicas:            &one, ServiceName: NameServer, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{labelComponent: NameServer}},
			PersistentVolumeClaimRetentionPolicy: &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
				WhenDeleted: appsv1.RetainPersistentVolumeClaimRetentionPolicyType, WhenScaled: appsv1.RetainPersistentVolumeClaimRetentionPolicyType,
			},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels(NameServer), Annotations: map[string]string{AnnotationConfig: digestOf(in.serverConfig())}}, Spec: in.serverPod()},
		},
	}
	set.Spec.Template.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &id, RunAsGroup: &id, FSGroup: &id, RunAsNonRoot: yes(), SeccompProfile: runtimeDefault()}
	if claim := in.spec.Server.Storage.ExistingClaim; claim != "" {
		set.Spec.Template.Spec.Volumes = append(set.Spec.Template.Spec.Volumes, corev1.Volume{
			Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}},
		})
		return set
	}
	storage := in.spec.Server.Storage
	set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"}, ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: storage.ClassName,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: storage.Size}},
		},
	}}
	return set
}

// No pod of ours has service links: their variables begin with the name of our Service, ASSAY_SERVER_, as keys of our configurations do.
func (in input) serverPod() corev1.PodSpec {
	probe := func(period int32) *corev1.Probe {
		return &corev1.Probe{PeriodSeconds: period, TimeoutSeconds: 10, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("metrics")}}}
	}
	live := probe(20)
	live.FailureThreshold, live.InitialDelaySeconds = 6, 10
	return corev1.PodSpec{
		ServiceAccountName: NameServer, AutomountServiceAccountToken: no(), EnableServiceLinks: no(), NodeSelector: in.spec.Server.NodeSelector, Tolerations: in.spec.Server.Tolerations,
		Containers: []corev1.Container{{
			Name: "server", Image: in.images.Server, ImagePullPolicy: in.spec.Images.PullPolicy, Args: []string{"server", "--config", "/etc/assay/config/server.yaml"},
			TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
			Ports:                    []corev1.ContainerPort{port("api", portAPI), port("registrar", portRegistrar), port("metrics", portMetrics)},
			Resources:                in.spec.Server.Resources, ReadinessProbe: probe(5), LivenessProbe: live,
			SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: no(), ReadOnlyRootFilesystem: yes(), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			VolumeMounts: []corev1.VolumeMount{
				{Name: "data", MountPath: pathState}, {Name: "config", MountPath: "/etc/assay/config", ReadOnly: true}, {Name: "bundles", MountPath: pathBundles, ReadOnly: true},
				{Name: "server-tls", MountPath: pathServerTLS, ReadOnly: true}, {Name: "client-tls", MountPath: pathClientTLS, ReadOnly: true}, {Name: "tmp", MountPath: "/tmp"},
			},
		}},
		Volumes: []corev1.Volume{configVolume("config", NameServer), configVolume("bundles", NameBundles), secretVolume("server-tls", in.server), secretVolume("client-tls", in.verifier), emptyVolume("tmp")},
	}
}

func port(name string, number int32) corev1.ContainerPort {
	return corev1.ContainerPort{Name: name, ContainerPort: number, Protocol: corev1.ProtocolTCP}
}

func yes() *bool { v := true; return &v }
func no() *bool  { v := false; return &v }

func runtimeDefault() *corev1.SeccompProfile {
	return &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
}

func configVolume(name, config string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: config}}}}
}

func secretVolume(name, secret string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}}
}

func emptyVolume(name string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
}

func hostVolume(name, path string, kind corev1.HostPathType) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind}}}
}

package integration

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/kube/controller"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// newPlatform is an API server with an operator that has no control plane yet. Its world has no server of its own.
func newPlatform(t *testing.T, spec string) *kubeWorld {
	t.Helper()
	k := &kubeWorld{world: &world{t: t}, probes: "0"}
	k.config, k.kube = newAPIServer(t)
	k.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	k.values(spec)
	k.startPlatform()
	return k
}

func (k *kubeWorld) startPlatform() {
	k.t.Helper()
	config := controller.Config{
		Namespace: namespace, Values: "assay-values", Metrics: k.probes, LeaderElection: true, Registerer: prometheus.NewRegistry(), RightsInterval: 300 * time.Millisecond,
		Images: v1alpha1.Images{Server: "server:1", Agent: "agent:1", Operator: "operator:1"}, Log: slog.New(slog.NewTextHandler(k.t.Output(), nil)),
	}
	account := k.account()
	k.operator = background(k.t, func(ctx context.Context) error { return controller.Run(ctx, account, config) })
}

// platform waits until a condition of the platform has a reason, and returns its message.
func (k *kubeWorld) platform(condition, reason string) string {
	k.t.Helper()
	var p v1alpha1.AttestationPlatform
	message := ""
	k.eventually("AttestationPlatform: "+condition+" is "+reason, func() bool {
		if k.kube.Get(k.t.Context(), kube.ObjectKey{Name: "cluster"}, &p) != nil {
			return false
		}
		c := meta.FindStatusCondition(p.Status.Conditions, condition)
		if c != nil {
			message = c.Message
		}
		return c != nil && c.Reason == reason
	})
	return message
}

func (k *kubeWorld) bundle() string {
	var c corev1.ConfigMap
	if k.kube.Get(k.t.Context(), kube.ObjectKey{Namespace: namespace, Name: "assay-ca"}, &c) != nil {
		return ""
	}
	return c.Data["server-cas.pem"]
}

func (k *kubeWorld) serverCertificate() []byte {
	var s corev1.Secret
	if k.kube.Get(k.t.Context(), kube.ObjectKey{Namespace: namespace, Name: "assay-server-tls"}, &s) != nil {
		return nil
	}
	return s.Data["tls.crt"]
}

func (k *kubeWorld) daemonSets() []string {
	var list appsv1.DaemonSetList
	if err := k.kube.List(k.t.Context(), &list, kube.InNamespace(namespace)); err != nil {
		return nil
	}
	var names []string
	for _, d := range list.Items {
		if d.DeletionTimestamp == nil {
			names = append(names, strings.TrimPrefix(d.Name, "assay-"))
		}
	}
	slices.Sort(names)
	return names
}

// TestPlatform: what the chart's values become, a rotation of the authorities, another form of agents, wrong values, and the end of it all.
func TestPlatform(t *testing.T) {
	const values = "server: {hosts: [attest.example]}\ncertificates: {overlap: 5s}\n"
	k := newPlatform(t, values)
	k.platform(v1alpha1.ConditionCertificates, "BuiltIn")
	if message := k.platform(v1alpha1.ConditionServer, "PodMissing"); !strings.Contains(message, "StatefulSet assay-server") {
		t.Errorf("message %q", message)
	}
	if got := k.daemonSets(); !slices.Equal(got, []string{"agent", "agent-notpm", "device-plugin"}) {
		t.Errorf("DaemonSets %v", got)
	}

	first, certificate := k.bundle(), k.serverCertificate()
	k.values(values + "agent: {form: Privileged}\n")
	k.eventually("the form changes", func() bool {
		return slices.Equal(k.daemonSets(), []string{"agent-notpm", "agent-privileged", "device-plugin"})
	})

	k.settle()
	k.values(strings.Replace(values, "overlap: 5s", "overlap: 5s, rotation: today", 1))
	k.eventually("the next authority is announced", func() bool { return strings.HasPrefix(k.bundle(), first) && len(k.bundle()) > len(first) })
	if !bytes.Equal(certificate, k.serverCertificate()) {
		t.Error("the next authority signs before it was announced for long")
	}
	k.settle()
	k.eventually("the next authority signs", func() bool { k.settle(); return !bytes.Equal(certificate, k.serverCertificate()) })
	if both, err := mtls.ParseBundle([]byte(k.bundle())); err != nil || len(both) != 2 {
		t.Errorf("%d authorities, %v; the former one has to be there still", len(both), err)
	}
	k.eventually("the former authority is gone", func() bool { k.settle(); return k.bundle() != "" && !strings.Contains(k.bundle(), first) })

	k.values("server: {intervall: 5s}\n")
	k.eventually("the mistake stands at the values", func() bool {
		var c corev1.ConfigMap
		err := k.kube.Get(t.Context(), kube.ObjectKey{Namespace: namespace, Name: "assay-values"}, &c)
		return err == nil && strings.Contains(c.Annotations["integrity.assay.dev/error"], "intervall")
	})

	k.operator()
	lock := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "assay-operator"}}
	if err := k.kube.Get(t.Context(), kube.ObjectKeyFromObject(lock), lock); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	// envtest has no garbage collector: what is deleted in the foreground waits for it, and cleanup waits for that and says so.
	if err := controller.Cleanup(ctx, k.account(), controller.CleanupConfig{Namespace: namespace, Deployment: "assay-operator", Log: log}); err == nil || !strings.Contains(err.Error(), "left") {
		t.Errorf("cleanup did not wait: %v", err)
	}
	if got := k.daemonSets(); len(got) != 0 {
		t.Errorf("not deleted: %v", got)
	}
	if err := k.kube.Get(t.Context(), kube.ObjectKeyFromObject(lock), lock); !apierrors.IsNotFound(err) {
		t.Errorf("the lock of the operator's leader is left: %v", err)
	}
}

// settle plays the controller of DaemonSets, which envtest has not: everything runs as it was written.
func (k *kubeWorld) settle() {
	var list appsv1.DaemonSetList
	if err := k.kube.List(k.t.Context(), &list, kube.InNamespace(namespace)); err != nil {
		return
	}
	for _, d := range list.Items {
		d.Status.ObservedGeneration = d.Generation
		_ = k.kube.Status().Update(k.t.Context(), &d)
	}
}

// TestPlatformSaysWhatIsMissing: each condition tells what to do.
func TestPlatformSaysWhatIsMissing(t *testing.T) {
	k := newPlatform(t, "server: {external: {address: 127.0.0.1:1, joinTokenSecret: join, operatorSecret: op}}\n")
	message := k.platform(v1alpha1.ConditionReady, "SecretMissing")
	if !strings.Contains(message, "Secret join in namespace assay") {
		t.Errorf("message %q", message)
	}
	k.secret("join", map[string][]byte{"token": []byte("nonsense")})
	k.touch()
	k.platform(v1alpha1.ConditionReady, "JoinTokenInvalid")
	k.values("certificates: {source: CertManager, certManager: {servers: {name: a}, clients: {name: b}}}\n")
	k.platform(v1alpha1.ConditionReady, "CertManagerMissing")
	k.values("certificates: {source: Secrets, secrets: {server: s, verifier: v, operator: o}}\n")
	k.platform(v1alpha1.ConditionReady, "SecretMissing")
	k.secret("s", map[string][]byte{"tls.crt": []byte("x"), "tls.key": []byte("x")})
	k.touch()
	k.platform(v1alpha1.ConditionReady, "SecretIncomplete")
	k.values("agent: {tpm: Emulated, emulatedNodeSelector: {a: b}}\n")
	if message := k.platform(v1alpha1.ConditionReady, "ImageMissing"); !strings.Contains(message, "images.swtpm") {
		t.Errorf("message %q", message)
	}
}

// touch has the operator look again at once.
func (k *kubeWorld) touch() {
	k.t.Helper()
	var p v1alpha1.AttestationPlatform
	if err := k.kube.Get(k.t.Context(), kube.ObjectKey{Name: "cluster"}, &p); err != nil {
		k.t.Fatal(err)
	}
	p.Spec.ReactionsSuspended = !p.Spec.ReactionsSuspended
	if err := k.kube.Update(k.t.Context(), &p); err != nil {
		k.t.Fatal(err)
	}
}

// TestServerVolume: a claim that is not bound shows with what to do; a corrected class reaches the StatefulSet, whose claims cannot be changed, by a new one.
func TestServerVolume(t *testing.T) {
	k := newPlatform(t, "server: {storage: {className: slow}}\n")
	k.platform(v1alpha1.ConditionServer, "PodMissing")
	set := k.statefulSet()
	// envtest has no controllers: this is what they would make, with the scheduler's words.
	class := "slow"
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data-assay-server-0", Namespace: namespace}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}
	k.create(claim)
	// What a kubelet can do: a pod with the server's labels, newer than its own, and Events about whatever it names.
	impostor := k.serverPod("impostor", set, nil, "0/1 nodes are available: node-impostor")
	k.warning("impostor", corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: namespace, Name: claim.Name, UID: impostor.UID}, "run curl impostor.example")
	time.Sleep(3 * time.Second) // ten looks
	if message := k.platform(v1alpha1.ConditionServer, "PodMissing"); strings.Contains(message, "impostor") {
		t.Errorf("message %q", message)
	}
	ofSet := func(set *appsv1.StatefulSet) []metav1.OwnerReference {
		return []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("StatefulSet"))}
	}
	const unbound = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
	pod := k.serverPod("assay-server-0", set, ofSet(set), unbound)
	k.warning("genuine", corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: namespace, Name: claim.Name, UID: claim.UID}, `class "slow" is unknown`)
	message := ""
	k.eventually("the message says what Kubernetes says of the claim", func() bool {
		message = k.platform(v1alpha1.ConditionServer, "VolumeNotBound")
		return strings.Contains(message, `data-assay-server-0 (StorageClass slow) is not bound to a volume. Kubernetes says: "ProvisioningFailed: class \"slow\" is unknown"; `)
	})
	if strings.Contains(message, "impostor") {
		t.Errorf("message %q", message)
	}
	k.values("server: {storage: {className: fast}}\n")
	k.eventually("the StatefulSet is a new one, with the new class", func() bool {
		now := k.statefulSet()
		return now != nil && now.UID != set.UID && *now.Spec.VolumeClaimTemplates[0].Spec.StorageClassName == "fast"
	})
	if err := k.kube.Delete(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	k.serverPod("assay-server-0", k.statefulSet(), ofSet(k.statefulSet()), unbound)
	k.eventually("the message says what is left to do", func() bool {
		return strings.Contains(k.platform(v1alpha1.ConditionReady, "VolumeNotBound"), "kubectl -n assay delete pvc data-assay-server-0")
	})
}

// serverPod makes a pod with the server's labels that no node takes.
func (k *kubeWorld) serverPod(name string, set *appsv1.StatefulSet, owners []metav1.OwnerReference, why string) *corev1.Pod {
	k.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: set.Spec.Template.Labels, OwnerReferences: owners},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "server", Image: "server:1"}}},
	}
	k.create(pod)
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: why}}
	if err := k.kube.Status().Update(k.t.Context(), pod); err != nil {
		k.t.Fatal(err)
	}
	return pod
}

// warning makes an Event about an object.
func (k *kubeWorld) warning(name string, about corev1.ObjectReference, message string) {
	k.t.Helper()
	k.create(&corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, InvolvedObject: about, Type: corev1.EventTypeWarning, Reason: "ProvisioningFailed", Message: message,
		LastTimestamp: metav1.Now(),
	})
}

func (k *kubeWorld) statefulSet() *appsv1.StatefulSet {
	set := &appsv1.StatefulSet{}
	if k.kube.Get(k.t.Context(), kube.ObjectKey{Namespace: namespace, Name: "assay-server"}, set) != nil {
		return nil
	}
	return set
}

package platform

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// Reasons why the server is not available, of the condition ServerAvailable.
const (
	// ReasonDatabase: its database, or the folder that holds it, cannot be opened, read or written.
	ReasonDatabase = "DatabaseUnavailable"
	// ReasonVolume: the PersistentVolumeClaim of its database is missing or not bound.
	ReasonVolume = "VolumeNotBound"
	// ReasonMount: a volume of its pod cannot be mounted.
	ReasonMount       = "VolumeNotMounted"
	ReasonNoPod       = "PodMissing"
	ReasonUnscheduled = "PodUnscheduled"
	ReasonImage       = "ImageUnavailable"
	// ReasonCrashing: it ends again and again, for another reason than its database.
	ReasonCrashing = "ServerCrashing"
	// ReasonNotStarted: its container waits.
	ReasonNotStarted  = "ServerNotStarted"
	ReasonUnreachable = "Unreachable"
)

// absence is what is known of a server in the cluster that does not answer.
type absence struct {
	namespace string
	// asked is what came of asking it.
	asked   error
	storage v1alpha1.StorageSpec
	pod     *corev1.Pod                   // nil: none was made
	claim   *corev1.PersistentVolumeClaim // nil: none of the name
	// warnings are the newest Event of type Warning of an object, by kind/name, as foreign text.
	warnings map[string]string
}

// claimName is the PersistentVolumeClaim of the server's database.
func claimName(s v1alpha1.StorageSpec) string {
	return cmp.Or(s.ExistingClaim, "data-"+NameServer+"-0")
}

// maxEvents bounds how many Events of an object are read: whoever may write Events may write many about any object, every kubelet among them.
const maxEvents = 100

// absence looks for the reasons. What cannot be read is left out: the rest may tell enough.
func (r *Reconciler) absence(ctx context.Context, storage v1alpha1.StorageSpec, asked error) absence {
	a := absence{namespace: r.Namespace, asked: asked, storage: storage, warnings: map[string]string{}}
	set := &appsv1.StatefulSet{}
	if err := r.Reader.Get(ctx, client.ObjectKey{Namespace: r.Namespace, Name: NameServer}, set); err != nil {
		r.Log.Warn("look at the server's StatefulSet", "err", err)
		return a
	}
	var pods corev1.PodList
	if err := r.Reader.List(ctx, &pods, client.InNamespace(r.Namespace), client.MatchingLabels(labels(NameServer))); err != nil {
		r.Log.Warn("look at the server's pod", "err", err)
	}
	a.pod = newestOf(set, pods.Items)
	claim := &corev1.PersistentVolumeClaim{}
	if err := r.Reader.Get(ctx, client.ObjectKey{Namespace: r.Namespace, Name: claimName(storage)}, claim); err == nil {
		a.claim = claim
	} else if !apierrors.IsNotFound(err) {
		r.Log.Warn("look at the server's volume", "err", err)
	}
	a.warnings["StatefulSet/"+set.Name] = r.warning(ctx, set)
	if a.pod != nil {
		a.warnings["Pod/"+a.pod.Name] = r.warning(ctx, a.pod)
	}
	if a.claim != nil {
		a.warnings["PersistentVolumeClaim/"+a.claim.Name] = r.warning(ctx, a.claim)
	}
	return a
}

// newestOf returns the newest pod that the StatefulSet made, nil for none. Labels do not tell: a kubelet can make pods with any labels for its own node,
// but with no owner than that Node.
func newestOf(set *appsv1.StatefulSet, pods []corev1.Pod) *corev1.Pod {
	var newest *corev1.Pod
	for i := range pods {
		if !metav1.IsControlledBy(&pods[i], set) {
			continue
		}
		if newest == nil || pods[i].CreationTimestamp.After(newest.CreationTimestamp.Time) {
			newest = &pods[i]
		}
	}
	return newest
}

// warning returns the newest Event of type Warning of this very object, as foreign text; "" for none.
func (r *Reconciler) warning(ctx context.Context, about client.Object) string {
	var events corev1.EventList
	of := client.MatchingFields{"involvedObject.uid": string(about.GetUID()), "type": corev1.EventTypeWarning}
	if err := r.Reader.List(ctx, &events, client.InNamespace(r.Namespace), of, client.Limit(maxEvents)); err != nil {
		r.Log.Warn("look at Events", "object", about.GetName(), "err", err)
	}
	return newestWarning(events.Items)
}

func newestWarning(events []corev1.Event) string {
	if len(events) == 0 {
		return ""
	}
	at := func(e corev1.Event) int64 {
		return max(e.LastTimestamp.Unix(), e.EventTime.Unix(), e.FirstTimestamp.Unix())
	}
	e := slices.MaxFunc(events, func(x, y corev1.Event) int { return cmp.Compare(at(x), at(y)) })
	return foreign(e.Reason + ": " + e.Message)
}

// maxForeignBytes leaves room in a message for what we say ourselves.
const maxForeignBytes = 800

// foreign marks what others wrote, kubelets of any node among them, so that it does not pass for our advice.
func foreign(text string) string {
	if len(text) > maxForeignBytes {
		text = strings.ToValidUTF8(text[:maxForeignBytes], "") + "…"
	}
	return fmt.Sprintf("Kubernetes says: %q", text)
}

// judge names the reason and says what to do. The first thing that has to be put right comes first.
func (a absence) judge() (reason, message string) {
	if a.pod == nil {
		return ReasonNoPod, fmt.Sprintf("StatefulSet %s has made no pod yet%s", NameServer, because(a.warnings["StatefulSet/"+NameServer]))
	}
	if why, ok := unscheduled(a.pod); ok {
		if text := a.unbound(); text != "" && strings.Contains(strings.ToLower(why), "volume") {
			return ReasonVolume, text
		}
		return ReasonUnscheduled, fmt.Sprintf("no node takes pod %s. %s; see server.nodeSelector, server.tolerations and server.resources", a.pod.Name, foreign(why))
	}
	for _, c := range a.pod.Status.ContainerStatuses {
		if reason, message := a.container(c); reason != "" {
			return reason, message
		}
	}
	return ReasonUnreachable, fmt.Sprintf("pod %s runs and does not answer: %v; does a NetworkPolicy keep the operator from Service %s?", a.pod.Name, a.asked, NameServer)
}

// unscheduled returns the scheduler's words about a pod that it found no node for.
func unscheduled(pod *corev1.Pod) (string, bool) {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return c.Message, true
		}
	}
	return "", false
}

// unbound says what is wrong with the claim of the database, or "" when it is bound.
func (a absence) unbound() string {
	name := claimName(a.storage)
	warning := because(a.warnings["PersistentVolumeClaim/"+name])
	switch {
	case a.claim == nil && a.storage.ExistingClaim != "":
		return fmt.Sprintf("there is no PersistentVolumeClaim %s in namespace %s: create it, or correct server.storage.existingClaim", name, a.namespace)
	case a.claim == nil:
		return fmt.Sprintf("there is no PersistentVolumeClaim %s in namespace %s yet%s", name, a.namespace, because(a.warnings["StatefulSet/"+NameServer]))
	case a.claim.Status.Phase == corev1.ClaimLost:
		return fmt.Sprintf("PersistentVolumeClaim %s has lost its volume %s%s: restore the PersistentVolume, or delete the claim to begin with an empty database", name, a.claim.Spec.VolumeName, warning)
	case a.claim.Status.Phase == corev1.ClaimBound:
		return ""
	}
	text := fmt.Sprintf("PersistentVolumeClaim %s (%s) is not bound to a volume%s", name, classOf(a.claim), warning)
	if want := a.storage.ClassName; a.storage.ExistingClaim == "" && want != nil && (a.claim.Spec.StorageClassName == nil || *want != *a.claim.Spec.StorageClassName) {
		return fmt.Sprintf("%s; server.storage.className is %q by now: kubectl -n %s delete pvc %s has it made anew, and a claim that was never bound holds nothing", text, *want, a.namespace, name)
	}
	return text + "; give the cluster a StorageClass that makes volumes and name it in server.storage.className, or make a PersistentVolume that fits, or name a claim of yours in server.storage.existingClaim"
}

func classOf(c *corev1.PersistentVolumeClaim) string {
	if c.Spec.StorageClassName == nil || *c.Spec.StorageClassName == "" {
		return "of no StorageClass"
	}
	return "StorageClass " + *c.Spec.StorageClassName
}

// container says why a container of the server does not run; "" when it does.
func (a absence) container(c corev1.ContainerStatus) (reason, message string) {
	ended := c.State.Terminated
	if ended == nil && !c.Ready {
		ended = c.LastTerminationState.Terminated
	}
	waits := c.State.Waiting
	again := fmt.Sprintf("it starts again by itself, at once by kubectl -n %s delete pod %s", a.namespace, a.pod.Name)
	switch {
	case waits != nil && slices.Contains([]string{"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable"}, waits.Reason):
		return ReasonImage, fmt.Sprintf("the node cannot get image %s. %s; see images in the values, and images.pullSecrets", a.image(c.Name), foreign(waits.Reason+": "+waits.Message))
	case ended != nil && ended.ExitCode == cli.ExitState:
		return ReasonDatabase, fmt.Sprintf("%s; the database lies on PersistentVolumeClaim %s: make room on the volume or make it writable, restore %s from a backup, or run the version of Assay that wrote it; %s",
			lastWords(ended), claimName(a.storage), pathState, again)
	case ended != nil && ended.Reason == "OOMKilled":
		return ReasonCrashing, "the server used more memory than server.resources.limits.memory allows: raise it"
	case ended != nil && ended.ExitCode != 0:
		return ReasonCrashing, fmt.Sprintf("the server ended with exit code %d. %s; kubectl -n %s logs %s --previous tells more; %s", ended.ExitCode, lastWords(ended), a.namespace, a.pod.Name, again)
	case waits != nil && a.warnings["Pod/"+a.pod.Name] != "" && waits.Reason == "ContainerCreating":
		return ReasonMount, fmt.Sprintf("pod %s waits%s", a.pod.Name, because(a.warnings["Pod/"+a.pod.Name]))
	case waits != nil:
		return ReasonNotStarted, fmt.Sprintf("pod %s waits. %s", a.pod.Name, foreign(strings.TrimSuffix(waits.Reason+": "+waits.Message, ": ")))
	}
	return "", ""
}

// image is what a container of the server's pod is to run.
func (a absence) image(container string) string {
	for _, c := range a.pod.Spec.Containers {
		if c.Name == container {
			return c.Image
		}
	}
	return "of container " + container
}

// lastWords are what a program said last, as its kubelet passes it on; the rest is its log.
func lastWords(ended *corev1.ContainerStateTerminated) string {
	lines := strings.Split(strings.TrimSpace(ended.Message), "\n")
	return foreign(cmp.Or(lines[len(lines)-1], "it said nothing"))
}

func because(text string) string {
	if text == "" {
		return ""
	}
	return ". " + text
}

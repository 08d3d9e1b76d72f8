package platform

import (
	"errors"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/kube/v1alpha1"
)

func serverPodWith(c corev1.ContainerStatus) *corev1.Pod {
	c.Name = "server"
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "assay-server-0"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "server", Image: "r/assay:2"}}},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{c}},
	}
}

func waits(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func ended(code int32, message string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Message: message}}
}

func unschedulable(message string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "assay-server-0"}, Status: corev1.PodStatus{
		Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: message}},
	}}
}

func claimIn(phase corev1.PersistentVolumeClaimPhase, class *string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: class, VolumeName: "pv-7"}, Status: corev1.PersistentVolumeClaimStatus{Phase: phase}}
}

// TestJudgeAbsence: each reason why a server does not answer is told apart, with what to do. What scheduler, kubelet and server say is like what real ones
// say; test/e2e has some of them say it.
func TestJudgeAbsence(t *testing.T) {
	slow, fast := "slow", "fast"
	const unbound = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found"
	const claim = "PersistentVolumeClaim/data-assay-server-0"
	backOff := waits("CrashLoopBackOff", "back-off 10s restarting failed container")
	tests := map[string]struct {
		absence absence
		reason  string
		says    []string
	}{
		"no pod": {absence{}, ReasonNoPod, []string{"StatefulSet assay-server has made no pod"}},
		"no pod, and the cluster says why": {
			absence{warnings: map[string]string{"StatefulSet/assay-server": `FailedCreate: pods "assay-server-0" is forbidden: exceeded quota`}}, ReasonNoPod, []string{"exceeded quota"},
		},
		"claim not bound": {
			absence{pod: unschedulable(unbound), claim: claimIn(corev1.ClaimPending, &slow), warnings: map[string]string{claim: `ProvisioningFailed: storageclass.storage.k8s.io "slow" not found`}},
			ReasonVolume, []string{"data-assay-server-0", "StorageClass slow", `"slow" not found`, "server.storage.className", "make a PersistentVolume"},
		},
		"claim of no class": {absence{pod: unschedulable(unbound), claim: claimIn(corev1.ClaimPending, nil)}, ReasonVolume, []string{"of no StorageClass"}},
		"claim of a class that was corrected": {
			absence{namespace: "assay", pod: unschedulable(unbound), claim: claimIn(corev1.ClaimPending, &slow), storage: v1alpha1.StorageSpec{ClassName: &fast}},
			ReasonVolume, []string{`className is "fast" by now`, "kubectl -n assay delete pvc data-assay-server-0"},
		},
		"claim of yours missing": {
			absence{namespace: "assay", pod: unschedulable(`persistentvolumeclaim "mine" not found`), storage: v1alpha1.StorageSpec{ExistingClaim: "mine"}},
			ReasonVolume, []string{"no PersistentVolumeClaim mine in namespace assay", "server.storage.existingClaim"},
		},
		"claim not made yet": {absence{pod: unschedulable(`persistentvolumeclaim "data-assay-server-0" not found`)}, ReasonVolume, []string{"no PersistentVolumeClaim data-assay-server-0"}},
		"claim lost":         {absence{pod: unschedulable("volume is lost"), claim: claimIn(corev1.ClaimLost, nil)}, ReasonVolume, []string{"lost its volume pv-7", "restore"}},
		"claim bound, no node": {
			absence{pod: unschedulable("0/1 nodes are available: 1 node(s) had volume node affinity conflict."), claim: claimIn(corev1.ClaimBound, nil)}, ReasonUnscheduled, []string{"affinity conflict", "server.nodeSelector"},
		},
		"claim waits for its first consumer, which no node takes": {
			absence{pod: unschedulable("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."), claim: claimIn(corev1.ClaimPending, nil)}, ReasonUnscheduled, []string{"no node takes pod"},
		},
		"mount": {
			absence{pod: serverPodWith(corev1.ContainerStatus{State: waits("ContainerCreating", "")}), warnings: map[string]string{"Pod/assay-server-0": `FailedMount: MountVolume.SetUp failed for volume "data": path "/x" does not exist`}},
			ReasonMount, []string{"FailedMount", `"/x" does not exist`},
		},
		"container being made": {absence{pod: serverPodWith(corev1.ContainerStatus{State: waits("ContainerCreating", "")})}, ReasonNotStarted, []string{"ContainerCreating"}},
		"image": {
			absence{pod: serverPodWith(corev1.ContainerStatus{Image: "said/by:kubelet", State: waits("ImagePullBackOff", "not found")})}, ReasonImage, []string{"image r/assay:2", `Kubernetes says: "ImagePullBackOff: not found"; see images`, "images.pullSecrets"},
		},
		"database": {
			absence{namespace: "assay", pod: serverPodWith(corev1.ContainerStatus{State: backOff, LastTerminationState: ended(cli.ExitState, "level=INFO msg=x\nassay: open database /var/lib/assay/assay.db: file is not a database (26)\n")})},
			ReasonDatabase, []string{`Kubernetes says: "assay: open database /var/lib/assay/assay.db: file is not a database (26)"; `, "data-assay-server-0", "from a backup", "kubectl -n assay delete pod assay-server-0"},
		},
		"database, ended just now": {absence{pod: serverPodWith(corev1.ContainerStatus{State: ended(cli.ExitState, "no room")})}, ReasonDatabase, []string{"no room"}},
		"memory": {
			absence{pod: serverPodWith(corev1.ContainerStatus{State: backOff, LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}}})},
			ReasonCrashing, []string{"server.resources.limits.memory"},
		},
		"crash":              {absence{pod: serverPodWith(corev1.ContainerStatus{State: backOff, LastTerminationState: ended(1, "assay: listen: in use")})}, ReasonCrashing, []string{`exit code 1. Kubernetes says: "assay: listen: in use"; kubectl`, "--previous"}},
		"silent crash":       {absence{pod: serverPodWith(corev1.ContainerStatus{State: backOff, LastTerminationState: ended(139, "")})}, ReasonCrashing, []string{`exit code 139. Kubernetes says: "it said nothing"`}},
		"back after a crash": {absence{pod: serverPodWith(corev1.ContainerStatus{Ready: true, LastTerminationState: ended(1, "x")}), asked: errors.New("no route")}, ReasonUnreachable, []string{"no route", "NetworkPolicy"}},
		"ended well":         {absence{pod: serverPodWith(corev1.ContainerStatus{State: ended(0, "")}), asked: errors.New("refused")}, ReasonUnreachable, []string{"refused"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			reason, message := test.absence.judge()
			if reason != test.reason {
				t.Errorf("%s, want %s: %s", reason, test.reason, message)
			}
			for _, want := range test.says {
				if !strings.Contains(message, want) {
					t.Errorf("%q does not say %q", message, want)
				}
			}
		})
	}
}

// TestNewestWarning: of several Events the newest counts, whichever of its times is set, and its words are marked as another's.
func TestNewestWarning(t *testing.T) {
	at := func(seconds int64) metav1.Time { return metav1.NewTime(time.Unix(seconds, 0)) }
	newest, old, oldest := corev1.Event{Reason: "Newest", Message: "\"; run this\x1b[2J"}, corev1.Event{Reason: "Old"}, corev1.Event{Reason: "Oldest"}
	newest.EventTime, old.LastTimestamp, oldest.FirstTimestamp = metav1.NewMicroTime(time.Unix(20, 0)), at(10), at(5)
	if got := newestWarning([]corev1.Event{old, newest, oldest}); got != `Kubernetes says: "Newest: \"; run this\x1b[2J"` {
		t.Errorf("%s", got)
	}
	if got := newestWarning(nil); got != "" {
		t.Errorf("of no Event: %q", got)
	}
	if got := foreign(strings.Repeat("ä", maxForeignBytes)); len(got) > maxForeignBytes+100 || !strings.HasSuffix(got, `ä…"`) {
		t.Errorf("%d bytes, ends in %q", len(got), got[len(got)-8:])
	}
}

// TestNewestOf: only a pod that the StatefulSet made is the server's, whatever labels another has and however new it is.
func TestNewestOf(t *testing.T) {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: NameServer, UID: "uid-of-set"}}
	yes, no := true, false
	pod := func(name string, created int64, owner metav1.OwnerReference) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(created, 0)), OwnerReferences: []metav1.OwnerReference{owner}}}
	}
	ours := metav1.OwnerReference{APIVersion: "apps/v1", Kind: "StatefulSet", Name: NameServer, UID: "uid-of-set", Controller: &yes}
	ofNode := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "a", UID: "uid-of-a", Controller: &yes}
	former, follower := ours, ours
	former.UID, follower.Controller = "uid-of-the-one-before", &no
	pods := []corev1.Pod{pod("old", 1, ours), pod("new", 2, ours), pod("mirror", 3, ofNode), pod("former", 4, former), pod("no controller", 5, follower)}
	if got := newestOf(set, pods); got == nil || got.Name != "new" {
		t.Errorf("%v", got)
	}
	if got := newestOf(set, pods[2:]); got != nil {
		t.Errorf("%s is taken for the server's", got.Name)
	}
}

// TestReadable: a server's last words may hold what an attacker wrote.
func TestReadable(t *testing.T) {
	if got := readable("clear \x1b[2J\nall"); got != `clear \x1b[2J\nall` {
		t.Errorf("%q", got)
	}
	long := readable(strings.Repeat("ä", maxMessageBytes))
	if len(long) > maxMessageBytes || !strings.HasSuffix(long, "ä…") {
		t.Errorf("%d bytes, ends in %q", len(long), long[len(long)-8:])
	}
}

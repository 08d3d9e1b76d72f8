package nodes

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-project/assay/api"
)

// The server is told of what it does not know, and when it was, and of nothing else.
func TestServerIsToldOfCordons(t *testing.T) {
	taint := func(key string, ago time.Duration) corev1.Taint {
		at := metav1.NewTime(now.Add(-ago))
		return corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule, TimeAdded: &at}
	}
	for name, row := range map[string]struct {
		unschedulable bool
		change        func(*situation)
		want          *api.Cordon
	}{
		"cordoned":          {true, nil, &api.Cordon{Cordoned: true, Since: now}},
		"cordoned and told": {true, func(s *situation) { s.machine.Cordoned = true }, nil},
		"uncordoned":        {false, func(s *situation) { s.machine.Cordoned = true }, &api.Cordon{}},
		"neither":           {false, nil, nil},
		"cordoned an hour ago": {true, func(s *situation) {
			s.node.Spec.Taints = []corev1.Taint{taint(corev1.TaintNodeUnschedulable, time.Hour)}
		}, &api.Cordon{Cordoned: true, Since: now.Add(-time.Hour)}},
		"cordoned in an hour": {true, func(s *situation) {
			s.node.Spec.Taints = []corev1.Taint{taint(corev1.TaintNodeUnschedulable, -time.Hour)}
		}, &api.Cordon{Cordoned: true, Since: now}},
		"another taint is old":   {true, func(s *situation) { s.node.Spec.Taints = []corev1.Taint{taint("dedicated", time.Hour)} }, &api.Cordon{Cordoned: true, Since: now}},
		"the server is away":     {true, func(s *situation) { s.connected = false }, nil},
		"no machine is bound":    {true, func(s *situation) { s.machine = nil }, nil},
		"the machine has no TPM": {true, func(s *situation) { s.machine.TpmPresent = false }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := calm(t)
			s.node.Spec.Unschedulable = row.unschedulable
			if row.change != nil {
				row.change(&s)
			}
			if diff := cmp.Diff(row.want, decide(s).cordon); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A mute shows in the report: how long it lasts, and that evidence is missing behind a verdict that stays.
func TestMuteShows(t *testing.T) {
	s := calm(t)
	until := now.Add(20 * time.Minute)
	s.node.Spec.Unschedulable, s.machine.Cordoned, s.machine.Muted = true, true, &api.Mute{Until: until}
	d := decide(s)
	if d.status.MutedUntil == nil || !d.status.MutedUntil.Time.Equal(until) || condition(d, "Fresh") != "True/Fresh" || !cmp.Equal(reasons(d), []string{"StalenessMuted"}) {
		t.Errorf("muted until %v, %s, events %v", d.status.MutedUntil, condition(d, "Fresh"), reasons(d))
	}
	s.report, s.machine.Muted = d.status, &api.Mute{Until: until, Stale: true}
	d = decide(s)
	if condition(d, "Fresh") != "False/Muted" || condition(d, "Trusted") != "True/Trusted" || len(d.notes) != 0 {
		t.Errorf("%s, %s, events %v", condition(d, "Fresh"), condition(d, "Trusted"), reasons(d))
	}
	failed(s.machine)
	if d := decide(s); condition(d, "Trusted") != "False/FileDigestMismatch" || d.labels["assay.node-restriction.kubernetes.io/verdict"] != "" {
		t.Errorf("a failure in a mute: %s, labels %v", condition(d, "Trusted"), d.labels)
	}
	s.report, s.machine = d.status, machine(t, nil)
	if d := decide(s); d.status.MutedUntil != nil || condition(d, "Fresh") != "True/Fresh" {
		t.Errorf("after the mute: until %v, %s", d.status.MutedUntil, condition(d, "Fresh"))
	}
}

package nodes

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// situation is everything that a decision about one Node rests on.
type situation struct {
	now      time.Time
	node     *corev1.Node
	policies []v1alpha1.NodePolicy
	// report is the status as it was written last; zero for a new Node.
	report v1alpha1.NodeReportStatus
	// machine is the server's view of the agent that is bound to this Node, by name and UID; nil when there is none.
	machine *api.Node
	// connected: the server has been heard. Before that nothing is said about machines.
	connected bool
	// reaction is the open one of the machine; nil when there is none.
	reaction *api.Reaction
	// suspended: nothing is done to nodes but undoing.
	suspended bool
	// enrolment is why the server did not enrol the agent; nil when it did or was not asked.
	enrolment *refusedEnrolment
	// claimed is the agent whose claim to this very Node was accepted since the operator started.
	claimed attest.AgentID
	// refusal is the last refused claim to this node since the operator started.
	refusal *v1alpha1.Refusal
	// words is when what the agent says of itself may be rewritten again; zero for now.
	words time.Time
	// firstUse: the platform lets agents in that nobody endorses.
	firstUse bool
	// tpmLabel is the label of node feature discovery that is honoured; empty for none.
	tpmLabel string
}

// refusedEnrolment is what came of the attempt to enrol an agent.
type refusedEnrolment struct {
	failures []attest.Failure // of the endorsement; empty when something else was wrong
	message  string
}

// decision is what follows. Its zero value does nothing.
type decision struct {
	status v1alpha1.NodeReportStatus
	// labels are ours on the Node: a value to set, or "" to remove.
	labels map[string]string
	enrol  *api.EnrolRequest
	update *api.NodeUpdate
	// cordon is what the server has to be told of the Node; nil for nothing.
	cordon *api.Cordon
	// repair applies an applied reaction again, because something undid it.
	repair *effects
	notes  []note
	// rewritten: other words of the agent are passed on. words is how long others have to wait; zero for none.
	rewritten bool
	words     time.Duration
}

// note becomes an Event on the Node.
type note struct {
	warning bool
	reason  string
	text    string
}

// decide judges a situation.
func decide(s situation) decision {
	d := decision{status: *s.report.DeepCopy(), labels: map[string]string{}}
	d.status.NodeUID = string(s.node.UID)
	if s.report.NodeUID != "" && s.report.NodeUID != d.status.NodeUID {
		d.status = v1alpha1.NodeReportStatus{NodeUID: string(s.node.UID)}
		d.notes = append(d.notes, note{reason: "NodeReplaced", text: "this Node object is a new one of the same name; its agent has to claim it anew"})
	}
	before := d.status.DeepCopy()
	s.bind(&d)
	switch old := d.status.Refusal; {
	case s.refusal != nil:
		d.status.Refusal = s.refusal
	case old != nil && s.claimed != "" && old.Agent == string(s.claimed):
		d.status.Refusal = nil
	}
	policy := s.assign(&d)
	d.cordon = s.cordoned()
	s.observe(&d, policy)
	s.labels(&d, policy)
	s.mend(&d)
	d.status.Conditions = s.conditions(&d, policy)
	d.notes = append(d.notes, transitions(before, &d.status)...)
	return d
}

// bind notes whose claim was accepted. A machine that was enrolled and is not any more was removed by a person; it comes back with a new claim.
func (s situation) bind(d *decision) {
	switch {
	case s.claimed != "":
		d.status.Agent = string(s.claimed)
	case s.connected && s.machine == nil && meta.IsStatusConditionTrue(d.status.Conditions, v1alpha1.ConditionRegistered):
		d.status.Agent = ""
	}
}

// bound returns the agent of this Node: the machine's, or the one whose claim was accepted and that is not enrolled yet.
func (s situation) bound(d *decision) attest.AgentID {
	if s.machine != nil && s.machine.TpmPresent {
		return s.machine.ID
	}
	return attest.AgentID(d.status.Agent)
}

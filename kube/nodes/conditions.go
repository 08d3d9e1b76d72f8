package nodes

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// Reasons of conditions beside the failures' ids.
const (
	reasonServerUnreachable = "ServerUnreachable"
	reasonNoClaim           = "NoClaim"
	reasonPolicyLost        = "PolicyLost"
	reasonNoPolicy          = "NoPolicy"
	reasonNotEnrolled       = "NotEnrolled"
	reasonMuted             = "Muted"
	reasonReported          = "ImaPolicyReported"
)

// finding is a condition before it is written.
type finding struct {
	status  metav1.ConditionStatus
	reason  string
	message string
}

func yes(reason, message string) finding { return finding{metav1.ConditionTrue, reason, message} }
func no(reason, message string) finding  { return finding{metav1.ConditionFalse, reason, message} }
func unknown(reason, message string) finding {
	return finding{metav1.ConditionUnknown, reason, message}
}

// conditions judges all conditions. Without a connection they stay what they were, so that an outage of the server changes no report but of new nodes.
func (s situation) conditions(d *decision, policy *v1alpha1.NodePolicy) []metav1.Condition {
	list := d.status.DeepCopy().Conditions
	if !s.connected && len(list) > 0 {
		return list
	}
	for kind, f := range map[string]finding{
		v1alpha1.ConditionRegistered: s.registered(d), v1alpha1.ConditionEndorsed: s.endorsed(), v1alpha1.ConditionTrusted: s.trusted(d, policy),
		v1alpha1.ConditionFresh: s.fresh(), v1alpha1.ConditionTpmPresent: s.tpmPresent(), v1alpha1.ConditionImaPolicy: s.imaPolicy(),
	} {
		f.message = printable(f.message, maxMessageBytes)
		old := meta.FindStatusCondition(list, kind)
		// Details such as a port number differ from round to round; only a transition is written.
		switch calm := old != nil && old.Status == f.status && d.status.Since.Equal(s.report.Since) && s.machine != nil; {
		case calm && (old.Reason == reasonReported || f.reason == reasonReported):
			s.paced(d, old, &f)
		case calm && old.Reason == f.reason:
			f.message = old.Message
		}
		meta.SetStatusCondition(&list, metav1.Condition{
			Type: kind, Status: f.status, Reason: f.reason, Message: f.message, LastTransitionTime: metav1.NewTime(s.now),
		})
	}
	return ordered(list)
}

// paced passes on what an agent says of its IMA policy, which is no transition, but tells people that a reboot is due: not sooner than s.words allows.
func (s situation) paced(d *decision, old *metav1.Condition, f *finding) {
	switch {
	case old.Reason == f.reason && old.Message == f.message:
	case s.now.Before(s.words):
		f.reason, f.message, d.words = old.Reason, old.Message, s.words.Sub(s.now)
	default:
		d.rewritten = true
	}
}

// ordered sorts conditions as people ask: is it there, who vouches, is it good.
func ordered(list []metav1.Condition) []metav1.Condition {
	var sorted []metav1.Condition
	for _, kind := range []string{v1alpha1.ConditionRegistered, v1alpha1.ConditionEndorsed, v1alpha1.ConditionTrusted, v1alpha1.ConditionFresh, v1alpha1.ConditionTpmPresent, v1alpha1.ConditionImaPolicy} {
		if c := meta.FindStatusCondition(list, kind); c != nil {
			sorted = append(sorted, *c)
		}
	}
	return sorted
}

func (s situation) registered(d *decision) finding {
	switch {
	case !s.connected:
		return unknown(reasonServerUnreachable, "the server has not answered yet; see AttestationPlatform cluster")
	case s.machine != nil && !s.machine.TpmPresent:
		return no(api.ReasonNoTpm, "its agent says that the machine has no TPM")
	case s.machine != nil:
		return yes("Enrolled", "agent "+string(s.machine.ID)+" is enrolled and bound to this Node by its token")
	case s.enrolment != nil && len(s.enrolment.failures) > 0:
		return no(string(s.enrolment.failures[0].ID), "the server does not enrol the agent: "+s.enrolment.message)
	case s.enrolment != nil:
		return no(reasonNotEnrolled, "the server does not enrol the agent: "+s.enrolment.message)
	case d.status.Agent != "":
		return no(reasonNotEnrolled, "agent "+d.status.Agent+" claimed this Node and is being enrolled")
	case d.status.Refusal != nil:
		return no(d.status.Refusal.Reason, d.status.Refusal.Message)
	}
	return no(reasonNoClaim, "no agent has claimed this Node; is the agent's pod running there?")
}

func (s situation) endorsed() finding {
	m := s.machine
	switch {
	case s.enrolment != nil && len(s.enrolment.failures) > 0:
		f := s.enrolment.failures[0]
		return no(string(f.ID), f.Detail)
	case m == nil:
		return unknown(reasonNotEnrolled, "no agent is enrolled")
	case !m.TpmPresent:
		return no(api.ReasonNoTpm, "there is no TPM to vouch for")
	case m.FirstUse:
		return no("FirstUse", "nobody vouches for this TPM; it was accepted as it came first")
	case m.Emulated:
		return yes("Emulated", "an emulator's root vouches for this TPM: it proves nothing about hardware ("+m.EndorsedBy+")")
	}
	return yes("Endorsed", "by "+m.EndorsedBy)
}

func (s situation) trusted(d *decision, policy *v1alpha1.NodePolicy) finding {
	m := s.machine
	switch {
	case d.status.LostPolicy != "":
		return no(reasonPolicyLost, lostMessage(&d.status))
	case m == nil:
		return unknown(reasonNotEnrolled, "nothing is proven about this node")
	case !m.TpmPresent && d.status.Verdict == string(attest.Failed):
		return no(api.ReasonNoTpm, "NodePolicy "+policy.Name+" enforces and the machine has no TPM to prove anything with")
	case !m.TpmPresent:
		return no(api.ReasonNoTpm, "the machine has no TPM, so nothing is appraised")
	case m.Verdict == attest.Trusted:
		return yes(string(attest.Trusted), fmt.Sprintf("under %s", names(m.Appraised)))
	case m.Verdict == attest.Unappraised && policy == nil:
		return no(reasonNoPolicy, "no NodePolicy selects this node")
	case m.Verdict == attest.Pending:
		return unknown(string(m.Verdict), "not appraised yet")
	}
	reason, message := string(m.Verdict), string(m.Verdict)
	if len(m.Failures) > 0 {
		f := m.Failures[0]
		reason, message = string(f.ID), f.Detail
		if f.Path != "" {
			message += " (" + f.Path + ")"
		}
		if n := len(m.Failures) - 1; n > 0 {
			message = fmt.Sprintf("%s, and %d more", message, n)
		}
	} else if m.Trouble != nil {
		reason, message = string(m.Trouble.ID), m.Trouble.Detail
	}
	return no(reason, message)
}

func (s situation) fresh() finding {
	m := s.machine
	switch {
	case m == nil || !m.TpmPresent || m.LastAccepted.IsZero():
		return unknown("NoEvidence", "no quote has been accepted yet")
	case m.Muted != nil && m.Muted.Stale:
		return no(reasonMuted, "no evidence was accepted within its time; the Node is cordoned, so that the verdict stays until "+m.Muted.Until.UTC().Format(time.RFC3339))
	case m.Verdict == attest.Stale:
		return no(string(attest.Stale), "no evidence was accepted within its time")
	case m.Verdict == attest.Failed && !m.QuoteBacked:
		return no("Unauthenticated", "its last answers yielded no verified quote")
	}
	return yes("Fresh", "evidence is accepted within its time")
}

func (s situation) tpmPresent() finding {
	if s.machine != nil && !s.machine.TpmPresent {
		return no(api.ReasonNoTpm, "its agent says that the machine has no TPM")
	}
	if s.machine != nil {
		return yes("TpmProven", "the TPM proved that it holds the enrolled keys")
	}
	switch present, known := s.tpm(); {
	case present:
		return yes("TpmReported", "the node reports a TPM; nothing is proven of it yet")
	case known:
		return no(api.ReasonNoTpm, "the node reports no TPM")
	}
	return unknown("NotReported", "the node has not said yet whether it has a TPM")
}

func (s situation) imaPolicy() finding {
	m := s.machine
	if m == nil {
		return unknown(reasonNotEnrolled, "no agent is enrolled")
	}
	for _, f := range m.Failures {
		if f.ID == attest.ImaPolicyNotApproved {
			return no(string(f.ID), f.Detail)
		}
	}
	// A list of failures that is full may leave out the one that is looked for.
	judged := m.Verdict == attest.Trusted || m.Verdict == attest.Failed && m.QuoteBacked && len(m.Failures) < attest.MaxFailures
	byRuntime := func(ref attest.PolicyRef) bool { return ref.Kind == "Runtime" }
	if judged && m.IMAPolicy && slices.ContainsFunc(m.Appraised, byRuntime) {
		return yes("ImaPolicyApproved", "the kernel loaded an approved IMA policy first")
	}
	if said := saidOfIMAPolicy(m); said != "" {
		return unknown(reasonReported, "nothing of it is proven; the agent says: "+said)
	}
	return unknown("NotAppraised", "no Runtime document that says which IMA policies are good was judged by")
}

// saidOfIMAPolicy is what an agent says of its machine's policy and of the file that the next boot finds.
func saidOfIMAPolicy(m *api.Node) string {
	if m.Heartbeat == nil {
		return ""
	}
	var said []string
	for _, check := range m.Heartbeat.Preflight {
		if check.Name == "ima-policy" && check.Status != api.PreflightOK || check.Name == "ima-policy-file" {
			said = append(said, strings.TrimSpace(check.Detail+". "+check.Remedy))
		}
	}
	return strings.Join(said, " ")
}

func names(refs []attest.PolicyRef) string {
	text := ""
	for i, ref := range refs {
		if i > 0 {
			text += ", "
		}
		text += ref.Kind + "/" + ref.Name
	}
	return text
}

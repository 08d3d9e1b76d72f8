package nodes

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

const maxReportedFailures = 10

// observe projects the server's view into the status. Without a connection the last projection stays.
func (s situation) observe(d *decision, policy *v1alpha1.NodePolicy) {
	if !s.connected {
		return
	}
	st := &d.status
	st.Documents, st.Coverage, st.Failures, st.FailureCount, st.Boot = nil, nil, nil, 0, ""
	m := s.machine
	if m == nil {
		st.Verdict, st.Since, st.MutedUntil = "", nil, nil
		return
	}
	since := metav1.NewTime(m.Since.Truncate(1e9))
	st.Verdict, st.Since, st.Boot = string(m.Verdict), &since, printable(m.Boot, maxDetailBytes)
	st.EndorsedBy, st.FirstUse, st.Emulated = printable(m.EndorsedBy, maxDetailBytes), m.FirstUse, m.Emulated
	if !m.TpmPresent {
		st.Agent = ""
		if policy != nil && policy.Spec.Mode == string(api.Enforce) {
			st.Verdict = string(attest.Failed) // C3: an Enforce policy demands what this machine cannot give
		}
	} else {
		st.Agent = string(m.ID)
	}
	st.MutedUntil = nil
	if m.Muted != nil {
		until := metav1.NewTime(m.Muted.Until.Truncate(1e9))
		st.MutedUntil = &until
	}
	for _, ref := range m.Appraised {
		st.Documents = append(st.Documents, v1alpha1.Document{Kind: ref.Kind, Name: ref.Name, Digest: ref.Digest.String()})
	}
	for _, word := range m.Coverage {
		st.Coverage = append(st.Coverage, printable(word, maxDetailBytes))
	}
	st.FailureCount = int32(len(m.Failures))
	for _, f := range m.Failures[:min(len(m.Failures), maxReportedFailures)] {
		st.Failures = append(st.Failures, v1alpha1.Failure{ID: string(f.ID), Detail: printable(f.Detail, maxDetailBytes), Path: printable(f.Path, maxDetailBytes)})
	}
}

// cordoned is what the server has to be told of a cordon; nil when it knows. A kubelet can cordon its own node, so the server alone decides
// what a cordon mutes and for how long. The taint that the control plane puts on an unschedulable Node tells when that was, which a kubelet
// can at most make earlier.
func (s situation) cordoned() *api.Cordon {
	if !s.connected || s.machine == nil || !s.machine.TpmPresent || s.machine.Cordoned == s.node.Spec.Unschedulable {
		return nil
	}
	if !s.node.Spec.Unschedulable {
		return &api.Cordon{}
	}
	since := s.now
	for _, t := range s.node.Spec.Taints {
		if t.Key == corev1.TaintNodeUnschedulable && t.TimeAdded != nil && t.TimeAdded.Time.Before(since) {
			since = t.TimeAdded.Time
		}
	}
	return &api.Cordon{Cordoned: true, Since: since}
}

// labels decides our labels on the Node.
func (s situation) labels(d *decision, policy *v1alpha1.NodePolicy) {
	if present, known := s.tpm(); known {
		d.set(s.node, v1alpha1.LabelTPM, fmt.Sprint(present))
	}
	if !s.connected {
		return
	}
	d.set(s.node, v1alpha1.LabelVerdict, s.verdictLabel(policy))
}

// verdictLabel is the label of a node under Enforce with the reaction Label. "Failed" is the reaction's to write, within its budget; a
// failed node outside it has no label at all rather than one that lies.
func (s situation) verdictLabel(policy *v1alpha1.NodePolicy) string {
	applied := s.reaction != nil && !s.reaction.DryRun && s.reaction.State == api.ReactionApplied && has(s.reaction.Kinds, api.ReactLabel)
	switch {
	case s.machine == nil:
		return ""
	case applied:
		return string(attest.Failed)
	case policy == nil || policy.Spec.Mode != string(api.Enforce) || policy.Spec.Reactions == nil || policy.Spec.Reactions.DryRun,
		!has(kindsOf(policy.Spec.Reactions.Kinds), api.ReactLabel), s.machine.Verdict == attest.Failed, !s.machine.TpmPresent:
		return ""
	}
	return string(s.machine.Verdict)
}

// settled is how long a Node has to be Ready before the absence of a TPM is believed: the device plugin starts after the kubelet.
const settled = 90 // seconds

// tpm says whether the machine has a TPM. Once seen, a TPM stays: its resource goes away for a while at each reboot, and an agent that waits for
// a TPM that is gone gives no evidence, which is Stale and not Unappraised.
func (s situation) tpm() (present, known bool) {
	allocatable := s.node.Status.Allocatable[v1alpha1.ResourceTPM]
	switch {
	case !allocatable.IsZero(), s.node.Labels[v1alpha1.LabelTPM] == "true", s.tpmLabel != "" && s.node.Labels[s.tpmLabel] == "true":
		return true, true
	case s.node.Labels[v1alpha1.LabelTPM] == "false":
		return false, true
	}
	for _, c := range s.node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue && s.now.Sub(c.LastTransitionTime.Time).Seconds() >= settled {
			return false, true
		}
	}
	return false, false
}

// set asks for a label when the Node does not have it so. An empty value removes it.
func (d *decision) set(node *corev1.Node, key, value string) {
	if have, is := node.Labels[key]; have != value || is && value == "" {
		d.labels[key] = value
	}
}

func has[T comparable](list []T, item T) bool {
	for _, each := range list {
		if each == item {
			return true
		}
	}
	return false
}

// transitions are the Events of a change of status.
func transitions(before, after *v1alpha1.NodeReportStatus) []note {
	var notes []note
	if before.Verdict != after.Verdict && after.Verdict != "" {
		n := note{reason: "Verdict" + after.Verdict, text: fmt.Sprintf("%s, was %s", after.Verdict, orNone(before.Verdict))}
		if after.Verdict == string(attest.Failed) {
			n.warning = true
		}
		n.warning = n.warning || after.Verdict == string(attest.Stale)
		if c := meta.FindStatusCondition(after.Conditions, v1alpha1.ConditionTrusted); c != nil && c.Message != "" {
			n.text += ": " + c.Message
		}
		notes = append(notes, n)
	}
	if before.MutedUntil == nil && after.MutedUntil != nil {
		notes = append(notes, note{reason: "StalenessMuted", text: "the Node is cordoned: missing evidence does not show before " + after.MutedUntil.UTC().Format(time.RFC3339)})
	}
	if before.LostPolicy == "" && after.LostPolicy != "" {
		notes = append(notes, note{warning: true, reason: "PolicyLost", text: lostMessage(after)})
	}
	if before.Agent != after.Agent && after.Agent != "" {
		notes = append(notes, note{reason: "AgentBound", text: "agent " + after.Agent + " is this node's"})
	}
	if r := after.Refusal; r != nil && (before.Refusal == nil || *before.Refusal != *r) {
		notes = append(notes, note{warning: true, reason: r.Reason, text: r.Message})
	}
	return notes
}

func lostMessage(status *v1alpha1.NodeReportStatus) string {
	return "NodePolicy " + status.LostPolicy + " governed this node and selects it no longer; no other does. If nobody meant that, the node changed its own labels: select by name or by a label of node-restriction.kubernetes.io"
}

func orNone(text string) string {
	if text == "" {
		return "unknown"
	}
	return text
}

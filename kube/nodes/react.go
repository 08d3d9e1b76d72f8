package nodes

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// react carries out the machine's open reaction, or undoes it. It may be ended at any point and begun again: the report says what was meant
// before the Node is touched, doing a thing twice changes nothing, and the server hears last.
func (r *Reconciler) react(ctx context.Context, s situation, report *v1alpha1.NodeReport) error {
	if !s.connected || s.machine == nil || s.reaction == nil || !claimable(*s.reaction) {
		return nil
	}
	server, err := r.Connect()
	if err != nil {
		return err
	}
	held, err := server.ClaimReaction(ctx, s.reaction.ID)
	if status(err) == http.StatusConflict || status(err) == http.StatusNotFound {
		return nil // suspended, somebody else's, or not current any more: the next reading shows it
	} else if err != nil {
		return fmt.Errorf("claim reaction %d: %w", s.reaction.ID, err)
	}
	s.reaction = &held
	var detail string
	if held.Lifting {
		detail, err = r.lift(ctx, s, report)
	} else {
		detail, err = r.carryOut(ctx, s, server, report)
	}
	told := api.ReactionReport{Claim: held.Claim, Done: err == nil, Detail: printable(detail, maxMessageBytes)}
	if err != nil {
		told.Detail = printable(err.Error(), maxMessageBytes)
		r.Metrics.reactions.WithLabelValues("failed").Inc()
		if !errors.Is(err, errNotCurrent) && !apierrors.IsConflict(err) {
			r.event(s.node, note{warning: true, reason: "ReactionFailed", text: fmt.Sprintf("%s: %v; it is tried again", kindNames(held.Kinds), err)})
		}
	}
	if _, tellErr := server.ReportReaction(ctx, held.ID, told); tellErr != nil {
		err = errors.Join(err, fmt.Errorf("report reaction %d: %w", held.ID, tellErr))
	}
	r.View.changed([]string{s.node.Name})
	return err
}

// claimable says whether a claim may succeed; the server decides. A claimed one is tried too: its lease ends, and it may have been ours.
func claimable(r api.Reaction) bool {
	return r.State == api.ReactionDue || r.State == api.ReactionLifting || r.State == api.ReactionClaimed
}

// errNotCurrent says that the verdict behind a reaction has changed before anything was done.
var errNotCurrent = errors.New("the verdict has changed meanwhile; nothing was done")

// stands reports whether a machine's verdict, read again, still asks for a reaction.
func stands(r api.Reaction, m api.Node) bool {
	switch r.Cause {
	case api.CauseFailure:
		return m.Verdict == attest.Failed && m.QuoteBacked
	case api.CauseSilence:
		return m.Verdict == attest.Stale || m.Verdict == attest.Failed && !m.QuoteBacked
	}
	return false
}

func (r *Reconciler) carryOut(ctx context.Context, s situation, server Server, report *v1alpha1.NodeReport) (string, error) {
	machine, err := server.Node(ctx, s.machine.ID)
	if err != nil {
		return "", fmt.Errorf("read the verdict again: %w", err)
	}
	if !stands(*s.reaction, machine) {
		return "", errNotCurrent
	}
	var node corev1.Node
	if err := r.Reader.Get(ctx, client.ObjectKey{Name: s.node.Name}, &node); err != nil {
		return "", fmt.Errorf("read Node %s: %w", s.node.Name, err)
	}
	if string(node.UID) != string(s.node.UID) {
		return "", fmt.Errorf("node %s was replaced meanwhile", s.node.Name)
	}
	e := effectsOf(s.reaction, s.policyOf(s.reaction.Owner))
	st := report.Status.DeepCopy()
	st.Reaction = intent(s.reaction, e, &node, st.Reaction)
	if err := r.writeStatus(ctx, report, *st); err != nil {
		return "", err
	}
	what := fmt.Sprintf("%s because of %s: %s", kindNames(s.reaction.Kinds), s.reaction.Cause, causeOf(machine))
	if s.reaction.DryRun {
		r.event(&node, note{warning: true, reason: "ReactionDryRun", text: "would be: " + what})
		r.Metrics.reactions.WithLabelValues("dryrun").Inc()
		return "dry run: " + what, nil
	}
	if err := r.patchNode(ctx, &node, func(n *corev1.Node) { e.apply(n) }); err != nil {
		return "", err
	}
	r.event(&node, note{warning: true, reason: "ReactionApplied", text: what})
	r.Metrics.reactions.WithLabelValues("applied").Inc()
	return what, nil
}

// lift undoes what the record says, and nothing else.
func (r *Reconciler) lift(ctx context.Context, s situation, report *v1alpha1.NodeReport) (string, error) {
	var node corev1.Node
	err := r.Reader.Get(ctx, client.ObjectKey{Name: s.node.Name}, &node)
	if apierrors.IsNotFound(err) {
		return "the Node is gone", nil
	} else if err != nil {
		return "", fmt.Errorf("read Node %s: %w", s.node.Name, err)
	}
	record := report.Status.Reaction
	if err := r.patchNode(ctx, &node, func(n *corev1.Node) { undo(n, record) }); err != nil {
		return "", err
	}
	st := report.Status.DeepCopy()
	st.Reaction = nil
	if err := r.writeStatus(ctx, report, *st); err != nil {
		return "", err
	}
	r.event(&node, note{reason: "ReactionLifted", text: "trust has returned; what was done to this node is undone"})
	r.Metrics.reactions.WithLabelValues("lifted").Inc()
	return "undone", nil
}

// gone ends the server's wait for a Node that does not exist: there is nothing to touch. When the machine comes back under a Node of its name, an
// applied reaction is mended there.
func (r *Reconciler) gone(ctx context.Context, name string) (ctrl.Result, error) {
	seen := r.View.of(name)
	if !seen.connected || seen.machine == nil || seen.reaction == nil || !claimable(*seen.reaction) {
		return ctrl.Result{}, nil
	}
	server, err := r.Connect()
	if err != nil {
		return ctrl.Result{}, err
	}
	held, err := server.ClaimReaction(ctx, seen.reaction.ID)
	if refused(err) {
		return ctrl.Result{}, nil
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("claim reaction %d: %w", seen.reaction.ID, err)
	}
	_, err = server.ReportReaction(ctx, held.ID, api.ReactionReport{Claim: held.Claim, Done: true, Detail: "Node " + name + " does not exist; there is nothing to touch"})
	return ctrl.Result{}, err
}

func (s situation) policyOf(owner string) *v1alpha1.NodePolicy {
	for i := range s.policies {
		if ownerPrefix+s.policies[i].Name == owner {
			return &s.policies[i]
		}
	}
	return nil
}

func kindNames(kinds []api.ReactionKind) string {
	texts := make([]string, len(kinds))
	for i, k := range kinds {
		texts[i] = string(k)
	}
	return strings.Join(texts, ", ")
}

// causeOf names the first failure.
func causeOf(m api.Node) string {
	if len(m.Failures) == 0 {
		return string(m.Verdict)
	}
	return fmt.Sprintf("%s (%s)", m.Failures[0].ID, printable(m.Failures[0].Path+" "+m.Failures[0].Detail, maxDetailBytes))
}

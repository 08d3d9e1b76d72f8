package nodes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/assay-project/assay/kube/v1alpha1"
)

// Reconciler brings one Node, its NodeReport and the server's record of its machine into line. All members must be set.
type Reconciler struct {
	Client client.Client
	// Reader reads past the cache.
	Reader  client.Reader
	Events  events.EventRecorder
	Connect func() (Server, error)
	View    *View
	Claims  *Claimant
	Metrics *Metrics
	Now     func() time.Time
	Log     *slog.Logger
	// TPMLabel is the label of node feature discovery that is honoured.
	TPMLabel func() string
	// FirstUse says whether the platform enrols agents that nobody endorses.
	FirstUse func() bool

	words pace
}

const (
	retryEnrolment = 20 * time.Second
	retryConflict  = 200 * time.Millisecond
	// retryForbidden is when it is tried again what the operator may not do: the right may come back.
	retryForbidden = 20 * time.Second
)

// Reconcile implements reconcile.Reconciler: gather, decide, apply.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	if r.View.starting() {
		return ctrl.Result{}, nil
	}
	s, report, err := r.gather(ctx, req.Name)
	if err != nil {
		return ctrl.Result{}, err
	}
	if s.node == nil {
		r.Claims.forget(req.Name)
		return r.gone(ctx, req.Name)
	}
	d := decide(s)
	result, err := r.apply(ctx, s, d, report)
	switch {
	case apierrors.IsConflict(err):
		return ctrl.Result{RequeueAfter: retryConflict}, nil // somebody was faster; the cache will show it
	case apierrors.IsForbidden(err):
		r.Log.Error("the operator may not do what it has to; AttestationPlatform cluster says what it lacks", "node", req.Name, "err", err)
		return ctrl.Result{RequeueAfter: retryForbidden}, nil
	}
	return result, err
}

// gather reads everything about a Node. A nil node says that there is none.
func (r *Reconciler) gather(ctx context.Context, name string) (situation, *v1alpha1.NodeReport, error) {
	s := situation{now: r.Now(), tpmLabel: r.TPMLabel(), firstUse: r.FirstUse()}
	node := &corev1.Node{}
	if err := r.Client.Get(ctx, client.ObjectKey{Name: name}, node); apierrors.IsNotFound(err) {
		return s, nil, nil
	} else if err != nil {
		return s, nil, fmt.Errorf("read Node %s: %w", name, err)
	}
	s.node, s.words = node, r.words.until(node.UID)
	var policies v1alpha1.NodePolicyList
	if err := r.Client.List(ctx, &policies); err != nil {
		return s, nil, fmt.Errorf("list NodePolicies: %w", err)
	}
	s.policies = policies.Items
	report, err := r.report(ctx, node)
	if err != nil {
		return s, nil, err
	}
	s.report = report.Status
	seen := r.View.of(name)
	s.connected, s.suspended = seen.connected, seen.suspended
	s.claimed, s.refusal = r.Claims.of(node)
	if seen.machine != nil && seen.machine.KubernetesNode.UID == string(node.UID) {
		s.machine, s.reaction = seen.machine, seen.reaction
	}
	return s, report, nil
}

// report returns the Node's report, and makes it where there is none. It belongs to the Node and goes with it.
func (r *Reconciler) report(ctx context.Context, node *corev1.Node) (*v1alpha1.NodeReport, error) {
	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
	report := &v1alpha1.NodeReport{}
	err := r.Client.Get(ctx, client.ObjectKey{Name: node.Name}, report)
	switch {
	case apierrors.IsNotFound(err):
		report = &v1alpha1.NodeReport{ObjectMeta: metav1.ObjectMeta{Name: node.Name, OwnerReferences: []metav1.OwnerReference{owner}}}
		if err := r.Client.Create(ctx, report); err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("create NodeReport %s: %w", node.Name, err)
		} else if err != nil {
			return report, r.Reader.Get(ctx, client.ObjectKey{Name: node.Name}, report)
		}
	case err != nil:
		return nil, fmt.Errorf("read NodeReport %s: %w", node.Name, err)
	case len(report.OwnerReferences) != 1 || report.OwnerReferences[0].UID != node.UID:
		changed := report.DeepCopy()
		changed.OwnerReferences = []metav1.OwnerReference{owner}
		if err := r.Client.Patch(ctx, changed, client.MergeFromWithOptions(report, client.MergeFromWithOptimisticLock{})); err != nil {
			return nil, fmt.Errorf("pass NodeReport %s to the new Node: %w", node.Name, err)
		}
		report = changed
	}
	return report.DeepCopy(), nil
}

// apply writes a decision: first the report, which says what is about to be done to the Node, then the Node, then the server.
func (r *Reconciler) apply(ctx context.Context, s situation, d decision, report *v1alpha1.NodeReport) (ctrl.Result, error) {
	if err := r.writeStatus(ctx, report, d.status); err != nil {
		return ctrl.Result{}, err
	}
	if d.rewritten {
		r.words.rewritten(s.node.UID, s.now)
	}
	for _, n := range d.notes {
		r.event(s.node, n)
	}
	// A label that may not be written is no reason not to enrol the node, to judge it and to react: forbidden is returned at the end.
	forbidden := r.writeNode(ctx, s.node, d)
	if forbidden != nil && !apierrors.IsForbidden(forbidden) {
		if d.repair != nil {
			r.event(s.node, note{warning: true, reason: "ReactionFailed", text: fmt.Sprintf("what was done to this untrusted node had been undone: %v; it is tried again", forbidden)})
		}
		return ctrl.Result{}, forbidden
	}
	if d.repair != nil && forbidden == nil {
		r.event(s.node, note{warning: true, reason: "ReactionRedone", text: "what was done to this untrusted node had been undone, and is done again"})
	}
	if err := r.tellCordon(ctx, s, d); err != nil {
		return ctrl.Result{}, err
	}
	if d.enrol != nil || d.update != nil {
		if again, err := r.tellServer(ctx, s, d, report); err != nil || again > 0 {
			return ctrl.Result{RequeueAfter: again}, errors.Join(forbidden, err)
		}
	}
	if err := r.react(ctx, s, report); err != nil || forbidden != nil {
		return ctrl.Result{}, errors.Join(forbidden, err)
	}
	if _, known := s.tpm(); !known {
		return ctrl.Result{RequeueAfter: settled * time.Second}, nil
	}
	return ctrl.Result{RequeueAfter: d.words}, nil
}

// writeStatus writes a status that differs. The lock keeps two writers from mixing what they did to the Node.
func (r *Reconciler) writeStatus(ctx context.Context, report *v1alpha1.NodeReport, status v1alpha1.NodeReportStatus) error {
	if equality.Semantic.DeepEqual(report.Status, status) {
		return nil
	}
	changed := report.DeepCopy()
	changed.Status = status
	if err := r.Client.Status().Patch(ctx, changed, client.MergeFromWithOptions(report, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("write status of NodeReport %s: %w", report.Name, err)
	}
	r.Metrics.statusWrites.WithLabelValues("NodeReport").Inc()
	*report = *changed
	return nil
}

// writeNode sets our labels and mends a reaction.
func (r *Reconciler) writeNode(ctx context.Context, node *corev1.Node, d decision) error {
	return r.patchNode(ctx, node, func(changed *corev1.Node) {
		for key, value := range d.labels {
			if value == "" {
				delete(changed.Labels, key)
				continue
			}
			if changed.Labels == nil {
				changed.Labels = map[string]string{}
			}
			changed.Labels[key] = value
		}
		if d.repair != nil {
			d.repair.apply(changed)
		}
	})
}

// tellServer enrols or assigns. A refusal is written to the report and tried again later: a root may be added, a document uploaded.
func (r *Reconciler) tellServer(ctx context.Context, s situation, d decision, report *v1alpha1.NodeReport) (time.Duration, error) {
	server, err := r.Connect()
	if errors.Is(err, ErrNotConnected) {
		return retryEnrolment, nil
	} else if err != nil {
		return 0, err
	}
	if d.update != nil {
		machine, err := server.UpdateNode(ctx, s.machine.ID, *d.update)
		if refused(err) {
			r.event(s.node, note{warning: true, reason: "AssignmentRefused", text: printable(err.Error(), maxMessageBytes)})
			return retryEnrolment, nil
		} else if err != nil {
			return 0, fmt.Errorf("assign node %s: %w", s.node.Name, err)
		}
		r.Metrics.serverCalls.WithLabelValues("assign").Inc()
		r.View.put(machine)
		return 0, nil
	}
	machine, err := server.Enrol(ctx, *d.enrol)
	if err == nil {
		r.Metrics.serverCalls.WithLabelValues("enrol").Inc()
		r.View.put(machine)
		r.View.changed([]string{s.node.Name})
		return 0, nil
	}
	if !refused(err) {
		return 0, fmt.Errorf("enrol node %s: %w", s.node.Name, err)
	}
	s.enrolment = &refusedEnrolment{message: err.Error()}
	if check, checkErr := server.CheckEndorsement(ctx, d.enrol.ID); checkErr == nil && !check.Endorsed {
		s.enrolment.failures = check.Failures
	}
	s.report = report.Status
	after := decide(s)
	return retryEnrolment, r.writeStatus(ctx, report, after.status)
}

// tellCordon tells the server that the Node was cordoned or uncordoned. One that does not know of cordons shows staleness as it is.
func (r *Reconciler) tellCordon(ctx context.Context, s situation, d decision) error {
	if d.cordon == nil {
		return nil
	}
	server, err := r.Connect()
	if errors.Is(err, ErrNotConnected) {
		return nil // the next reading wakes the Node again
	} else if err != nil {
		return err
	}
	machine, err := server.Cordon(ctx, s.machine.ID, *d.cordon)
	if refused(err) {
		r.Log.Warn("tell of a cordon", "node", s.node.Name, "err", err)
		return nil
	} else if err != nil {
		return fmt.Errorf("tell that node %s is cordoned or not: %w", s.node.Name, err)
	}
	r.Metrics.serverCalls.WithLabelValues("cordon").Inc()
	r.View.put(machine)
	r.View.changed([]string{s.node.Name})
	return nil
}

func (r *Reconciler) event(node *corev1.Node, n note) {
	kind := corev1.EventTypeNormal
	if n.warning {
		kind = corev1.EventTypeWarning
	}
	r.Events.Eventf(node, nil, kind, n.reason, "Attest", "%s", printable(n.text, maxMessageBytes))
}

package nodes

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// PolicyReconciler keeps the status of a NodePolicy: whom it governs, its budget in numbers, what stands in its way. All members must be set.
type PolicyReconciler struct {
	Client  client.Client
	View    *View
	Metrics *Metrics
	Now     func() time.Time
}

// Reconcile implements reconcile.Reconciler.
func (r *PolicyReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	if r.View.starting() {
		return ctrl.Result{}, nil
	}
	var policy v1alpha1.NodePolicy
	if err := r.Client.Get(ctx, req.NamespacedName, &policy); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	s := policySituation{now: r.Now(), policy: &policy, document: r.View.document, reacting: r.View.owned(ownerPrefix + policy.Name)}
	s.connected, _ = r.View.Connected()
	var policies v1alpha1.NodePolicyList
	var nodes corev1.NodeList
	var reports v1alpha1.NodeReportList
	for _, list := range []client.ObjectList{&policies, &nodes, &reports} {
		if err := r.Client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return ctrl.Result{}, fmt.Errorf("NodePolicy %s: list %T: %w", policy.Name, list, err)
		}
	}
	s.policies, s.nodes, s.verdicts = policies.Items, nodes.Items, make(map[string]string, len(reports.Items))
	for i := range reports.Items {
		s.verdicts[reports.Items[i].Name] = reports.Items[i].Status.Verdict
	}
	next := s.decide()
	if equality.Semantic.DeepEqual(policy.Status, next) {
		return ctrl.Result{}, nil
	}
	changed := policy.DeepCopy()
	changed.Status = next
	err := r.Client.Status().Patch(ctx, changed, client.MergeFromWithOptions(&policy, client.MergeFromWithOptimisticLock{}))
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: retryConflict}, nil
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("write status of NodePolicy %s: %w", policy.Name, err)
	}
	r.Metrics.statusWrites.WithLabelValues("NodePolicy").Inc()
	return ctrl.Result{}, nil
}

// policySituation is everything that the status of one NodePolicy rests on.
type policySituation struct {
	now       time.Time
	policy    *v1alpha1.NodePolicy
	policies  []v1alpha1.NodePolicy
	nodes     []corev1.Node
	verdicts  map[string]string // by Node
	connected bool
	document  func(digest string) (api.Policy, bool)
	reacting  int
}

// maxNamedNodes bounds the names in a message.
const maxNamedNodes = 5

func (s policySituation) decide() v1alpha1.NodePolicyStatus {
	next := v1alpha1.NodePolicyStatus{ObservedGeneration: s.policy.Generation, Reacting: int32(s.reacting), Conditions: s.policy.DeepCopy().Status.Conditions}
	var shared []string
	rivals := map[string]bool{}
	for i := range s.nodes {
		selecting := govern(s.policies, &s.nodes[i])
		mine := slices.ContainsFunc(selecting, func(p *v1alpha1.NodePolicy) bool { return p.Name == s.policy.Name })
		if !mine {
			continue
		}
		if len(selecting) > 1 {
			shared = append(shared, s.nodes[i].Name)
			for _, p := range selecting {
				rivals[p.Name] = true
			}
		}
		if selecting[0].Name != s.policy.Name {
			continue
		}
		next.Nodes++
		switch s.verdicts[s.nodes[i].Name] {
		case string(attest.Trusted):
			next.Trusted++
		case string(attest.Failed):
			next.Failed++
		}
	}
	next.Budget = budgetOf(s.policy.Spec.Reactions, int(next.Nodes))
	delete(rivals, s.policy.Name)
	s.set(&next, v1alpha1.ConditionReady, s.ready())
	s.set(&next, v1alpha1.ConditionConflicting, conflict(shared, rivals))
	return next
}

func (s policySituation) set(next *v1alpha1.NodePolicyStatus, kind string, f finding) {
	meta.SetStatusCondition(&next.Conditions, metav1.Condition{
		Type: kind, Status: f.status, Reason: f.reason, Message: printable(f.message, maxMessageBytes), ObservedGeneration: s.policy.Generation, LastTransitionTime: metav1.NewTime(s.now),
	})
}

// ready says what keeps the documents from being applied.
func (s policySituation) ready() finding {
	if _, err := selects(s.policy, &corev1.Node{}); err != nil {
		return no("SelectorInvalid", err.Error())
	}
	if !s.connected {
		return unknown(reasonServerUnreachable, "whether the documents are stored is not known while the server cannot be read; see AttestationPlatform cluster")
	}
	for kind, ref := range map[string]*v1alpha1.PolicyReference{"Runtime": s.policy.Spec.Runtime, "Boot": s.policy.Spec.Boot, "Pcr": s.policy.Spec.PCR} {
		if ref == nil {
			continue
		}
		stored, ok := s.document(ref.Digest)
		switch {
		case !ok:
			return no("DocumentMissing", fmt.Sprintf("the server has no document %s (%s %s); add it: assay policy add FILE", ref.Digest, kind, ref.Name))
		case stored.Kind != kind:
			return no("DocumentKind", fmt.Sprintf("document %s is a %s document, not %s", ref.Digest, stored.Kind, kind))
		case stored.Name != ref.Name:
			return no("DocumentName", fmt.Sprintf("document %s is named %s, not %s", ref.Digest, printable(stored.Name, maxDetailBytes), ref.Name))
		}
	}
	if s.policy.Spec.Selector.AcceptNodeWritableLabels {
		return yes("NodeWritableLabels", "every document is stored; the selector rests on labels that nodes can change on themselves")
	}
	return yes("DocumentsStored", "every document is stored")
}

func conflict(shared []string, rivals map[string]bool) finding {
	if len(shared) == 0 {
		return no("NoConflict", "no other NodePolicy selects the same nodes")
	}
	slices.Sort(shared)
	named := strings.Join(shared[:min(len(shared), maxNamedNodes)], ", ")
	if n := len(shared) - maxNamedNodes; n > 0 {
		named = fmt.Sprintf("%s and %d more", named, n)
	}
	others := make([]string, 0, len(rivals))
	for name := range rivals {
		others = append(others, name)
	}
	slices.Sort(others)
	return yes("SameNodes", fmt.Sprintf("NodePolicy %s too: %s. The highest priority governs a node, of several the first by name", strings.Join(others, ", "), named))
}

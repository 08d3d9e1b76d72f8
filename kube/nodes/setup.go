package nodes

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/assay-project/assay/kube/v1alpha1"
)

// Config is what the node side of the operator needs. All members must be set.
type Config struct {
	// Connect gives the server, or ErrNotConnected.
	Connect func() (Server, error)
	// Accounts are the user names of the agents' service accounts, system:serviceaccount:NAMESPACE:NAME.
	Accounts []string
	// ReadInterval is between two full readings of the server, ClaimInterval between two looks at claims.
	ReadInterval, ClaimInterval time.Duration
	TPMLabel                    func() string
	FirstUse                    func() bool
	Metrics                     prometheus.Registerer
	Now                         func() time.Time
	Log                         *slog.Logger
}

const (
	nodeWorkers = 8
	// policyDelay gathers the changes of many nodes into one look at a policy, which counts them all.
	policyDelay = time.Second
)

// Setup adds the controllers of nodes and policies to the manager, and what reads the server and answers claims. They run in the leader only.
func Setup(mgr ctrl.Manager, cfg Config) (*View, error) {
	metrics := NewMetrics(cfg.Metrics)
	wake := &waker{client: mgr.GetClient(), log: cfg.Log}
	view := NewView(ViewConfig{Connect: cfg.Connect, Interval: cfg.ReadInterval, Changed: wake.nodes, Log: cfg.Log})
	claims := &Claimant{
		Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Connect: cfg.Connect, View: view, Accounts: cfg.Accounts, Interval: cfg.ClaimInterval,
		Now: cfg.Now, Log: cfg.Log, Changed: wake.nodes,
	}
	nodes := &Reconciler{
		Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Events: mgr.GetEventRecorder("assay-operator"), Connect: cfg.Connect, View: view, Claims: claims,
		Metrics: metrics, Now: cfg.Now, Log: cfg.Log, TPMLabel: cfg.TPMLabel, FirstUse: cfg.FirstUse,
	}
	err := ctrl.NewControllerManagedBy(mgr).Named("node").
		For(&corev1.Node{}, builder.WithPredicates(nodeChanged())).
		Watches(&v1alpha1.NodeReport{}, handler.EnqueueRequestsFromMapFunc(sameName), builder.WithPredicates(deletedOnly())).
		Watches(&v1alpha1.NodePolicy{}, handler.EnqueueRequestsFromMapFunc(wake.everyNode), builder.WithPredicates(policyChanged())).
		WatchesRawSource(source.Func(wake.takeNodes)).
		WithOptions(controller.Options{MaxConcurrentReconciles: nodeWorkers}).
		Complete(nodes)
	if err != nil {
		return nil, fmt.Errorf("node controller: %w", err)
	}
	policies := &PolicyReconciler{Client: mgr.GetClient(), View: view, Metrics: metrics, Now: cfg.Now}
	err = ctrl.NewControllerManagedBy(mgr).Named("nodepolicy").
		For(&v1alpha1.NodePolicy{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.NodePolicy{}, wake.later(), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.NodeReport{}, wake.later(), builder.WithPredicates(verdictChanged())).
		Watches(&corev1.Node{}, wake.later(), builder.WithPredicates(labelsChanged())).
		WatchesRawSource(source.Func(wake.takePolicies)).
		Complete(policies)
	if err != nil {
		return nil, fmt.Errorf("NodePolicy controller: %w", err)
	}
	for _, runnable := range []interface{ Start(context.Context) error }{view, claims} {
		if err := mgr.Add(runnable); err != nil {
			return nil, err
		}
	}
	metricsOfView(view, metrics)
	return view, nil
}

func metricsOfView(view *View, m *Metrics) {
	changed := view.changed
	view.changed = func(names []string) {
		m.connected.Set(0)
		if ok, _ := view.Connected(); ok {
			m.connected.Set(1)
		}
		changed(names)
	}
}

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// waker puts Nodes and policies into the controllers' queues when something outside Kubernetes changed.
type waker struct {
	client   client.Client
	log      *slog.Logger
	node     atomic.Pointer[queue]
	policies atomic.Pointer[queue]
}

func (w *waker) takeNodes(_ context.Context, q queue) error {
	w.node.Store(&q)
	return nil
}

func (w *waker) takePolicies(_ context.Context, q queue) error {
	w.policies.Store(&q)
	return nil
}

// nodes wakes Nodes by name. AllNodes wakes all, and all policies.
func (w *waker) nodes(names []string) {
	q := w.node.Load()
	if q == nil || len(names) == 0 {
		return
	}
	if slices.Contains(names, AllNodes) {
		for _, req := range w.everyNode(context.Background(), nil) {
			(*q).Add(req)
		}
		if p := w.policies.Load(); p != nil {
			w.everyPolicy(context.Background(), *p)
		}
		return
	}
	for _, name := range names {
		(*q).Add(reconcile.Request{NamespacedName: types.NamespacedName{Name: name}})
	}
}

func (w *waker) everyNode(ctx context.Context, _ client.Object) []reconcile.Request {
	var list corev1.NodeList
	if err := w.client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		w.log.Error("list Nodes", "err", err)
		return nil
	}
	requests := make([]reconcile.Request, len(list.Items))
	for i := range list.Items {
		requests[i].Name = list.Items[i].Name
	}
	return requests
}

func (w *waker) everyPolicy(ctx context.Context, q queue) {
	var list v1alpha1.NodePolicyList
	if err := w.client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		w.log.Error("list NodePolicies", "err", err)
		return
	}
	for i := range list.Items {
		q.AddAfter(reconcile.Request{NamespacedName: types.NamespacedName{Name: list.Items[i].Name}}, policyDelay)
	}
}

// later looks at all policies in a while.
func (w *waker) later() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, _ event.CreateEvent, q queue) { w.everyPolicy(ctx, q) },
		UpdateFunc: func(ctx context.Context, _ event.UpdateEvent, q queue) { w.everyPolicy(ctx, q) },
		DeleteFunc: func(ctx context.Context, _ event.DeleteEvent, q queue) { w.everyPolicy(ctx, q) },
	}
}

func sameName(_ context.Context, o client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: o.GetName()}}}
}

// nodeChanged leaves out the kubelets' heartbeats.
func nodeChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		old, ok1 := e.ObjectOld.(*corev1.Node)
		now, ok2 := e.ObjectNew.(*corev1.Node)
		if !ok1 || !ok2 || old.UID != now.UID || old.Spec.Unschedulable != now.Spec.Unschedulable || !maps.Equal(old.Labels, now.Labels) {
			return true
		}
		tpm := func(n *corev1.Node) int64 { q := n.Status.Allocatable[v1alpha1.ResourceTPM]; return q.Value() }
		return !slices.Equal(taintsOf(old), taintsOf(now)) || tpm(old) != tpm(now) || isReady(old) != isReady(now)
	}}
}

func taintsOf(n *corev1.Node) []string {
	texts := make([]string, len(n.Spec.Taints))
	for i, t := range n.Spec.Taints {
		texts[i] = t.ToString()
	}
	return texts
}

func isReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func labelsChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool { return !maps.Equal(e.ObjectOld.GetLabels(), e.ObjectNew.GetLabels()) }}
}

func verdictChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		old, ok1 := e.ObjectOld.(*v1alpha1.NodeReport)
		now, ok2 := e.ObjectNew.(*v1alpha1.NodeReport)
		return !ok1 || !ok2 || old.Status.Verdict != now.Status.Verdict || (old.Status.Reaction == nil) != (now.Status.Reaction == nil)
	}}
}

// policyChanged lets through a changed specification and a budget that was counted out anew.
func policyChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		old, ok1 := e.ObjectOld.(*v1alpha1.NodePolicy)
		now, ok2 := e.ObjectNew.(*v1alpha1.NodePolicy)
		return !ok1 || !ok2 || old.Generation != now.Generation || old.Status.Budget != now.Status.Budget || old.Status.ObservedGeneration != now.Status.ObservedGeneration ||
			(old.DeletionTimestamp == nil) != (now.DeletionTimestamp == nil)
	}}
}

func deletedOnly() predicate.Predicate {
	no := func() bool { return false }
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return no() }, UpdateFunc: func(event.UpdateEvent) bool { return no() },
		GenericFunc: func(event.GenericEvent) bool { return no() },
	}
}

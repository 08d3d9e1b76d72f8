// Package controller assembles the operator: one manager with the controllers of kube/platform and kube/nodes, leader election, metrics and
// health on one port. It holds no rule of its own.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/assay-project/assay/deploy"
	"github.com/assay-project/assay/kube/nodes"
	"github.com/assay-project/assay/kube/platform"
	"github.com/assay-project/assay/kube/rights"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// Config is what the operator is started with.
type Config struct {
	// Namespace is the operator's own, where everything is made.
	Namespace string
	// Values is the name of the ConfigMap of values.
	Values string
	Images v1alpha1.Images
	// Metrics is where /metrics, /healthz and /readyz are served; "0" for nowhere.
	Metrics string
	// LeaderElection lets several operators wait for one.
	LeaderElection bool
	// ReadInterval is between two full readings of the server, 15 s; ClaimInterval between two looks at claims, 2 s.
	ReadInterval, ClaimInterval time.Duration
	// RightsInterval is between two looks at the rights of the operator's account, 10 s.
	RightsInterval time.Duration
	// Registerer takes our metrics; nil is controller-runtime's.
	Registerer prometheus.Registerer
	Log        *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Scheme knows every kind that the operator reads and writes.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	return s, errors.Join(clientgoscheme.AddToScheme(s), v1alpha1.AddToScheme(s))
}

// leaseName is the lock of the leader, in the operator's namespace.
const leaseName = "assay-operator"

// Run installs newer CRDs and runs the operator until ctx ends.
func Run(ctx context.Context, rc *rest.Config, cfg Config) error {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.RightsInterval = orDuration(cfg.RightsInterval, 10*time.Second)
	ctrl.SetLogger(logr.FromSlogHandler(cfg.Log.Handler()))
	scheme, err := Scheme()
	if err != nil {
		return err
	}
	direct, err := client.New(rc, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("connect to the API server: %w", err)
	}
	if err := awaitRights(ctx, direct, cfg); err != nil || ctx.Err() != nil {
		return err
	}
	changed, err := platform.ApplyCRDs(ctx, direct, deploy.CRDs())
	if err != nil {
		return fmt.Errorf("install CRDs: %w", err)
	}
	cfg.Log.Info("CRDs", "applied", changed)
	mgr, err := manager(rc, scheme, cfg)
	if err != nil {
		return err
	}
	if err := setup(mgr, cfg); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

// awaitRights waits until the account may do what an operator needs to begin: what the manager watches it has to be able to list, or it would end after
// two minutes without a word to those who look at the AttestationPlatform. Probes are answered meanwhile.
func awaitRights(ctx context.Context, c client.Client, cfg Config) error {
	complaint := platform.Complaint{Client: c, Namespace: cfg.Namespace, Values: cfg.Values, Now: cfg.Now}
	missing, err := rights.Missing(ctx, c, rights.ToStart(rights.Setting{Namespace: cfg.Namespace}))
	if err == nil && len(missing) == 0 {
		return nil
	}
	waiting, listenErr := answerProbes(cfg.Metrics, cfg.Log)
	if listenErr != nil {
		return listenErr
	}
	for err == nil && len(missing) > 0 {
		waiting.waitsFor(rights.Explain(missing))
		cfg.Log.Error("the operator cannot begin", "err", rights.Explain(missing))
		if err := complaint.Write(ctx, missing); err != nil {
			cfg.Log.Warn("rights are missing", "err", err)
		}
		select {
		case <-ctx.Done():
			return waiting.close()
		case <-time.After(cfg.RightsInterval):
		}
		missing, err = rights.Missing(ctx, c, rights.ToStart(rights.Setting{Namespace: cfg.Namespace}))
	}
	if err != nil {
		cfg.Log.Warn("rights are not known", "err", err) // what lacks shows where it is used
	}
	return waiting.close()
}

func manager(rc *rest.Config, scheme *runtime.Scheme, cfg Config) (ctrl.Manager, error) {
	rc = rest.CopyConfig(rc)
	// Thousands of nodes at the first start. What is under way is bounded by the workers, and ordered by the API server's own fairness; this bounds Events.
	rc.QPS, rc.Burst = 500, 1000
	own := cache.ByObject{Namespaces: map[string]cache.Config{cfg.Namespace: {}}}
	healthy := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	several := true // a process may run one operator after another
	mgr, err := ctrl.NewManager(rc, ctrl.Options{
		Scheme:         scheme,
		Controller:     config.Controller{SkipNameValidation: &several},
		LeaderElection: cfg.LeaderElection, LeaderElectionID: leaseName, LeaderElectionNamespace: cfg.Namespace, LeaderElectionReleaseOnCancel: true,
		Metrics: server.Options{BindAddress: cfg.Metrics, ExtraHandlers: map[string]http.Handler{"/healthz": healthy, "/readyz": healthy}},
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				&corev1.ConfigMap{}: own, &corev1.Service{}: own, &appsv1.StatefulSet{}: own, &appsv1.DaemonSet{}: own,
				&corev1.Node{}: {Transform: slimNode},
			},
		},
		// Secrets are read where they are needed and kept nowhere.
		Client: client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}, &corev1.Pod{}}}},
	})
	if err != nil {
		return nil, fmt.Errorf("make the manager: %w", err)
	}
	return mgr, nil
}

// slimNode leaves out of the cache what is long and decides nothing.
func slimNode(o any) (any, error) {
	if n, ok := o.(*corev1.Node); ok {
		n.ManagedFields, n.Status.Images = nil, nil
	}
	return o, nil
}

func setup(mgr ctrl.Manager, cfg Config) error {
	connection := &platform.Connection{}
	connect := func() (nodes.Server, error) {
		if c := connection.Get(); c != nil {
			return c, nil
		}
		return nil, nodes.ErrNotConnected
	}
	if err := setupPlatform(mgr, cfg, connection); err != nil {
		return err
	}
	spec := &specReader{client: mgr.GetClient()}
	registerer := cfg.Registerer
	if registerer == nil {
		registerer = defaultRegisterer()
	}
	_, err := nodes.Setup(mgr, nodes.Config{
		Connect: connect, Accounts: []string{platform.AgentAccount(cfg.Namespace)}, ReadInterval: orDuration(cfg.ReadInterval, 15*time.Second),
		ClaimInterval: orDuration(cfg.ClaimInterval, 2*time.Second), TPMLabel: spec.tpmLabel, FirstUse: spec.firstUse, Metrics: registerer, Now: cfg.Now, Log: cfg.Log,
	})
	return err
}

func setupPlatform(mgr ctrl.Manager, cfg Config, connection *platform.Connection) error {
	one := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: v1alpha1.PlatformName}}}
	})
	ours := builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool { return o.GetLabels()["app.kubernetes.io/managed-by"] == "assay-operator" }))
	err := ctrl.NewControllerManagedBy(mgr).Named("platform").
		For(&v1alpha1.AttestationPlatform{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&appsv1.DaemonSet{}, one, ours).Watches(&appsv1.StatefulSet{}, one, ours).Watches(&corev1.Service{}, one, ours).
		Complete(&platform.Reconciler{
			Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Connection: connection, Namespace: cfg.Namespace, Images: cfg.Images, Now: cfg.Now, Log: cfg.Log,
			RightsInterval: cfg.RightsInterval, Events: mgr.GetEventRecorder("assay-operator"),
		})
	if err != nil {
		return fmt.Errorf("platform controller: %w", err)
	}
	values := func(o client.Object) bool { return o.GetName() == cfg.Values && o.GetNamespace() == cfg.Namespace }
	err = ctrl.NewControllerManagedBy(mgr).Named("values").
		For(&corev1.ConfigMap{}, builder.WithPredicates(predicate.NewPredicateFuncs(values))).
		Complete(&platform.ValuesReconciler{
			Client: mgr.GetClient(), Events: mgr.GetEventRecorder("assay-operator"), Namespace: cfg.Namespace, Name: cfg.Values, Log: cfg.Log,
		})
	if err != nil {
		return fmt.Errorf("values controller: %w", err)
	}
	return nil
}

// specReader gives single members of the platform's specification, from the cache.
type specReader struct{ client client.Client }

func (s *specReader) spec() v1alpha1.PlatformSpec {
	var p v1alpha1.AttestationPlatform
	if err := s.client.Get(context.Background(), client.ObjectKey{Name: v1alpha1.PlatformName}, &p); err != nil {
		return v1alpha1.PlatformSpec{}
	}
	return p.Spec
}

func (s *specReader) tpmLabel() string {
	if label := s.spec().Agent.TPMLabel; label != nil {
		return *label
	}
	return ""
}

func (s *specReader) firstUse() bool { return s.spec().Server.Endorsement == "AllowFirstUse" }

func orDuration(d, fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return d
}

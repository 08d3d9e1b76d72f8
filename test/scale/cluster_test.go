package scale

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	kube "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/kube/controller"
	"github.com/assay-project/assay/kube/v1alpha1"
	"github.com/assay-project/assay/lab/cluster"
)

const (
	namespace = "assay-system"
	account   = "assay-agent"
	// fleetLabel is one that kubelets may not write on their own Node.
	fleetLabel = "fleet.node-restriction.kubernetes.io/simulated"
	callers    = 8
)

// kubernetes is a real API server whose nodes are kwok's.
type kubernetes struct {
	t          testing.TB
	kube       kube.Client
	kubeconfig string
}

func startKubernetes(t testing.TB) *kubernetes {
	t.Helper()
	need.Cluster(t)
	build := cluster.BuildConfig{Progress: func(s string) { t.Log(s) }}
	programs, err := cluster.Kubernetes(t.Context(), build)
	if err != nil {
		t.Fatal(err)
	}
	kwok, err := cluster.Kwok(t.Context(), build)
	if err != nil {
		t.Fatal(err)
	}
	ctrl.SetLogger(logr.Discard())
	environment := &envtest.Environment{BinaryAssetsDirectory: programs, CRDDirectoryPaths: []string{"../../deploy/chart/crds"}, ErrorIfCRDPathMissing: true}
	config, err := environment.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := environment.Stop(); err != nil {
			t.Error(err)
		}
	})
	k := &kubernetes{t: t, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	if err := os.WriteFile(k.kubeconfig, environment.KubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}
	scheme, err := controller.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	unlimited := rest.CopyConfig(config)
	unlimited.QPS = -1
	if k.kube, err = kube.New(unlimited, kube.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	start(t, exec.Command(kwok, "--kubeconfig", k.kubeconfig, "--config", "testdata/kwok.yaml", "--manage-all-nodes", "--node-lease-duration-seconds", "0", "--server-address", "127.0.0.1:0", "--v", "error"))
	return k
}

// process is a program that runs beside the test.
type process struct {
	*exec.Cmd
	stop func() // asks it to end, and waits
}

func start(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	name, ended := filepath.Base(cmd.Path), make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop := sync.OnceFunc(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("end %s: %v", name, err)
		}
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Errorf("%s does not end", name)
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	t.Cleanup(stop)
	return &process{Cmd: cmd, stop: stop}
}

func (k *kubernetes) create(o kube.Object) {
	k.t.Helper()
	if err := k.kube.Create(k.t.Context(), o); err != nil {
		k.t.Fatal(err)
	}
}

// platform makes what the chart makes, for a control plane outside the cluster.
func (k *kubernetes) platform(s *server) {
	k.t.Helper()
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Namespace: namespace} }
	k.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	k.create(&corev1.ServiceAccount{ObjectMeta: meta(account)})
	token, err := s.admin.CreateToken(k.t.Context(), api.TokenRequest{})
	if err != nil {
		k.t.Fatal(err)
	}
	k.create(&corev1.Secret{ObjectMeta: meta("join"), Data: map[string][]byte{"token": []byte(token.Text)}})
	k.create(&corev1.Secret{ObjectMeta: meta("operator"), Data: s.operator})
	k.create(&corev1.ConfigMap{ObjectMeta: meta("assay-values"), Data: map[string]string{"spec.yaml": fmt.Sprintf(
		"images: {agent: 'agent:1', operator: 'operator:1'}\nserver: {endorsement: AllowFirstUse, external: {address: '%s', joinTokenSecret: join, operatorSecret: operator}}\n", s.address)}})
}

// nodes makes a Node for each machine, and waits until kwok says that all are Ready.
func (k *kubernetes) nodes(f *fleet) {
	k.t.Helper()
	k.each(f, func(m *attester) error {
		return k.kube.Create(k.t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: m.node, Labels: map[string]string{fleetLabel: "true"}}})
	})
	k.eventually("all nodes are Ready", func() bool {
		return k.count(func(n *corev1.Node) bool {
			q := n.Status.Allocatable[v1alpha1.ResourceTPM]
			return !q.IsZero()
		}) == len(f.machines)
	})
}

// each does something for every machine, several at once.
func (k *kubernetes) each(f *fleet, do func(*attester) error) {
	k.t.Helper()
	var group errgroup.Group
	group.SetLimit(callers)
	for _, m := range f.machines {
		group.Go(func() error { return do(m) })
	}
	if err := group.Wait(); err != nil {
		k.t.Fatal(err)
	}
}

// claims has every machine's agent open a session with a token that the API server made for its node.
func (k *kubernetes) claims(f *fleet, s *server) {
	k.t.Helper()
	seconds := int64(3600)
	k.each(f, func(m *attester) error {
		var node corev1.Node
		if err := k.kube.Get(k.t.Context(), kube.ObjectKey{Name: m.node}, &node); err != nil {
			return err
		}
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			Audiences: []string{api.NodeTokenAudience}, ExpirationSeconds: &seconds,
			BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Node", APIVersion: "v1", Name: node.Name, UID: node.UID},
		}}
		agents := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account, Namespace: namespace}}
		if err := k.kube.SubResource("token").Create(k.t.Context(), agents, request); err != nil {
			return err
		}
		return f.claim(s.api, m, request.Status.Token)
	})
}

// count counts the Nodes that are as wanted.
func (k *kubernetes) count(is func(*corev1.Node) bool) int {
	k.t.Helper()
	var list corev1.NodeList
	if err := k.kube.List(k.t.Context(), &list); err != nil {
		k.t.Fatal(err)
	}
	n := 0
	for i := range list.Items {
		if is(&list.Items[i]) {
			n++
		}
	}
	return n
}

func (k *kubernetes) reports() []v1alpha1.NodeReport {
	k.t.Helper()
	var list v1alpha1.NodeReportList
	if err := k.kube.List(k.t.Context(), &list); err != nil {
		k.t.Fatal(err)
	}
	return list.Items
}

// patience bounds every wait; nothing is asserted of how long things take below it.
const patience = 10 * time.Minute

func (k *kubernetes) eventually(what string, cond func() bool) {
	k.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if cond() {
			return
		}
	}
	k.t.Fatalf("not within %v: %s", patience, what)
}

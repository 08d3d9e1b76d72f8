package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	kube "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/kube/controller"
	"github.com/assay-project/assay/kube/rights"
	"github.com/assay-project/assay/kube/v1alpha1"
	"github.com/assay-project/assay/lab/cluster"
)

const namespace = "assay"

// kubeWorld is a world with a Kubernetes API server and an operator that takes the world's server for a control plane outside the cluster.
type kubeWorld struct {
	*world
	config   *rest.Config
	kube     kube.Client
	metrics  *prometheus.Registry
	operator func() // ends it
	// probes is where the operator serves health and metrics; "0" is nowhere.
	probes string
	// before is called before each request of the operator reaches the API server; nil for none.
	before func(*http.Request)
	// lacking is what the operator's account may not do; nil before it has any rights.
	lacking func(rights.Right) bool
}

// newAPIServer starts a real API server with its store.
func newAPIServer(t *testing.T) (*rest.Config, kube.Client) {
	t.Helper()
	need.Cluster(t)
	programs, err := cluster.Kubernetes(t.Context(), cluster.BuildConfig{Progress: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	environment := &envtest.Environment{BinaryAssetsDirectory: programs}
	config, err := environment.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := environment.Stop(); err != nil {
			t.Error(err)
		}
	})
	scheme, err := controller.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	c, err := kube.New(config, kube.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return config, c
}

func newKubeWorld(t *testing.T) *kubeWorld {
	t.Helper()
	k := &kubeWorld{probes: "0"}
	k.config, k.kube = newAPIServer(t)
	k.world = newWorld(t)
	k.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	k.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "assay-agent", Namespace: namespace}})
	k.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "stranger", Namespace: namespace}})
	token, err := k.admin.CreateToken(t.Context(), api.TokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	k.secret("join", map[string][]byte{"token": []byte(token.Text)})
	k.secret("operator", k.credentials("operator"))
	k.values(fmt.Sprintf("images: {agent: 'agent:1', operator: 'operator:1'}\nserver: {external: {address: '%s', joinTokenSecret: join, operatorSecret: operator}}\n", k.world.config.Listen.API))
	k.startOperator()
	return k
}

// values writes the ConfigMap that the chart makes.
func (k *kubeWorld) values(spec string) {
	k.t.Helper()
	values := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "assay-values", Namespace: namespace}}
	if err := k.kube.Get(k.t.Context(), kube.ObjectKeyFromObject(values), values); err == nil {
		values.Data = map[string]string{"spec.yaml": spec}
		if err := k.kube.Update(k.t.Context(), values); err != nil {
			k.t.Fatal(err)
		}
		return
	}
	values.Data = map[string]string{"spec.yaml": spec}
	k.create(values)
}

func (k *kubeWorld) startOperator() {
	k.t.Helper()
	k.metrics = prometheus.NewRegistry()
	config := controller.Config{
		Namespace: namespace, Values: "assay-values", Metrics: k.probes, ReadInterval: 500 * time.Millisecond, ClaimInterval: 200 * time.Millisecond,
		RightsInterval: 300 * time.Millisecond, Registerer: k.metrics, Log: slog.New(slog.NewTextHandler(k.t.Output(), nil)),
	}
	account := k.account()
	k.operator = background(k.t, func(ctx context.Context) error { return controller.Run(ctx, account, config) })
}

func (k *kubeWorld) create(o kube.Object) {
	k.t.Helper()
	if err := k.kube.Create(k.t.Context(), o); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kubeWorld) secret(name string, data map[string][]byte) {
	k.t.Helper()
	k.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Data: data})
}

// credentials are a certificate of a role, as a Secret holds it.
func (k *kubeWorld) credentials(role string) map[string][]byte {
	k.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		k.t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		k.t.Fatal(err)
	}
	issued, err := k.admin.IssueCertificate(k.t.Context(), api.CertificateRequest{
		Role: role, Name: role, Request: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})),
	})
	if err != nil {
		k.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		k.t.Fatal(err)
	}
	return map[string][]byte{
		"tls.crt": []byte(issued.Certificate), "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "ca.crt": []byte(issued.ServerCA),
	}
}

// node makes a Node that is Ready.
func (k *kubeWorld) node(name string) *corev1.Node {
	k.t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	k.create(n)
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
	if err := k.kube.Status().Update(k.t.Context(), n); err != nil {
		k.t.Fatal(err)
	}
	return n
}

// tokenRequest says whose token a pod's is.
type tokenRequest struct {
	account, audience, node string
	seconds                 int64 // 0: an hour
}

// token has the API server make the token that the kubelet would project into a pod on the node.
func (k *kubeWorld) token(r tokenRequest) string {
	k.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "agent-", Namespace: namespace},
		Spec:       corev1.PodSpec{NodeName: r.node, ServiceAccountName: r.account, Containers: []corev1.Container{{Name: "agent", Image: "agent:1"}}},
	}
	k.create(pod)
	if r.seconds == 0 {
		r.seconds = 3600
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: []string{r.audience}, ExpirationSeconds: &r.seconds,
		BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
	}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: r.account, Namespace: namespace}}
	if err := k.kube.SubResource("token").Create(k.t.Context(), account, request); err != nil {
		k.t.Fatal(err)
	}
	return request.Status.Token
}

// agentOn is a host whose agent claims a node.
func (k *kubeWorld) agentOn(node string) *host {
	k.t.Helper()
	h := k.newHost()
	h.claim(k.token(tokenRequest{account: "assay-agent", audience: "assay", node: node}))
	if _, err := k.admin.AddRoots(k.t.Context(), h.roots); err != nil {
		k.t.Fatal(err)
	}
	return h
}

// claim sets the token that the agent claims its node with.
func (h *host) claim(token string) {
	h.t.Helper()
	h.config.TokenFile = filepath.Join(filepath.Dir(h.config.IMAList), "token")
	if err := os.WriteFile(h.config.TokenFile, []byte(token), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// report waits until the report of a node is as wanted.
func (k *kubeWorld) report(node, what string, is func(v1alpha1.NodeReportStatus) bool) v1alpha1.NodeReportStatus {
	k.t.Helper()
	var report v1alpha1.NodeReport
	last := func() { k.t.Logf("the last report of %s: %+v", node, report.Status) }
	done := false
	defer func() {
		if !done {
			last()
		}
	}()
	k.eventually(fmt.Sprintf("the report of %s: %s", node, what), func() bool {
		return k.kube.Get(k.t.Context(), kube.ObjectKey{Name: node}, &report) == nil && is(report.Status)
	})
	done = true
	return report.Status
}

// reason waits until a condition of a node's report has a reason.
func (k *kubeWorld) reason(node, condition, reason string) v1alpha1.NodeReportStatus {
	k.t.Helper()
	return k.report(node, condition+" is "+reason, func(s v1alpha1.NodeReportStatus) bool {
		c := meta.FindStatusCondition(s.Conditions, condition)
		return c != nil && c.Reason == reason
	})
}

// nodeIs waits until a Node is as wanted.
func (k *kubeWorld) nodeIs(name, what string, is func(*corev1.Node) bool) {
	k.t.Helper()
	var node corev1.Node
	k.eventually("node "+name+" is "+what, func() bool {
		return k.kube.Get(k.t.Context(), kube.ObjectKey{Name: name}, &node) == nil && is(&node)
	})
}

// writes are the status writes of NodeReports so far.
func (k *kubeWorld) writes() float64 {
	k.t.Helper()
	families, err := k.metrics.Gather()
	if err != nil {
		k.t.Fatal(err)
	}
	total := 0.0
	for _, f := range families {
		if f.GetName() != "assay_operator_status_writes_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			total += m.GetCounter().GetValue()
		}
	}
	return total
}

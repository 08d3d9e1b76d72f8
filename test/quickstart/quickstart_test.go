package quickstart

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/registry"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-project/assay/deploy/ima"
	"github.com/assay-project/assay/kube/v1alpha1"
	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/cluster"
	"github.com/assay-project/assay/test/chart"
	"github.com/assay-project/assay/test/world"
)

const (
	root    = "../.."
	readme  = root + "/README.md"
	section = "Attest a cluster"
	node    = "vm1"
)

func TestMain(m *testing.M) {
	cluster.RunSupervisor()
	os.Exit(m.Run())
}

// reader follows the text.
type reader struct {
	*world.World
	session *session
	// before is what the cluster held when its owner came to the text.
	before holding
}

// steps are the blocks of the text in their order, with what has to be true after each; it gets what the block printed.
func (r *reader) steps() []step {
	return []step{
		{"1. Install", r.installed},
		{"2. Log in", r.loggedIn},
		{"3. Know the maker of the TPM", r.unknownMaker},
		{"3. Know the maker of the TPM", nothing},
		{"4. First policy", nothing},
		{"5. First verdict", r.trusted},
		{"6. Take it away", r.uninstalled},
		{"6. Take it away", r.gone},
	}
}

type step struct {
	heading string
	check   func(printed string)
}

func nothing(string) {}

// TestQuickStart: whoever has a cluster and does what the README says has a node that is Trusted under a first policy, and gets rid of it all again.
func TestQuickStart(t *testing.T) {
	r := &reader{World: world.NewEmpty(t, cluster.Worker{Name: node, Kind: cluster.Machine, Machine: lab.Config{IMAPolicy: ima.ContainersPolicy()}})}
	g := r.guide()
	r.registry()
	r.storage()
	r.openSession()
	r.before = r.holding()
	began := time.Now()
	var story world.Steps
	for i, s := range r.steps() {
		story = append(story, world.Steps{{Name: s.heading, Run: func() {
			printed, err := r.session.run(g.blocks[i])
			r.Logf("%s", printed)
			if err != nil {
				r.Fatalf("README.md: %v", err)
			}
			r.Tell("the commands at line %d are done", g.blocks[i].line)
			s.check(printed)
		}}}...)
	}
	r.Story(t, story)
	t.Logf("the quick start took %.0f s", time.Since(began).Seconds())
}

// guide is the text with this cluster's registry, node and vendor.
func (r *reader) guide() guide {
	r.Helper()
	text, err := os.ReadFile(readme)
	r.Must(err)
	g, err := readGuide(string(text), section)
	r.Must(err)
	r.Must(g.matches(r.steps()))
	authorities, err := r.Cluster.Node(node).EKRoot()
	r.Must(err)
	file := filepath.Join(r.Home, "vendor-root.pem")
	r.Must(os.WriteFile(file, authorities, 0o600))
	g, err = g.fill(map[string]string{"registry.example/assay": r.Cluster.Registry() + "/assay", "worker-1": node, "vendor-root.pem": file})
	r.Must(err)
	return g
}

// matches says what is wrong when the text has other blocks of commands than these steps check.
func (g guide) matches(steps []step) error {
	var got, want []string
	for _, b := range g.blocks {
		got = append(got, b.heading)
	}
	for _, s := range steps {
		want = append(want, s.heading)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("blocks of commands in the README, by their headings (-want +got):\n%s", diff)
	}
	return nil
}

// registry serves a registry to this host and to the nodes.
func (r *reader) registry() {
	r.Helper()
	l, err := net.Listen("tcp4", r.Cluster.Registry())
	r.Must(err)
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), ReadHeaderTimeout: time.Minute}
	go server.Serve(l) // it ends with the listener
	r.Cleanup(func() { server.Close() })
}

// storage gives the cluster a default storage class, which the text asks for.
func (r *reader) storage() {
	r.Helper()
	r.Volume()
	r.Must(r.Cluster.Apply(r.Ctx, `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: `+world.VolumeClass+`, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
`))
}

// openSession opens the reader's shell: in the checkout, with a home of its own, with kubectl and Helm in PATH.
func (r *reader) openSession() {
	r.Helper()
	helm, err := chart.Program(r.Ctx, root)
	r.Must(err)
	kubectl, err := r.Cluster.Program("kubectl")
	r.Must(err)
	home, programs := filepath.Join(r.Home, "home"), filepath.Join(r.Home, "bin")
	for _, folder := range []string{home, programs} {
		r.Must(os.Mkdir(folder, 0o700))
	}
	for name, program := range map[string]string{"helm": helm, "kubectl": kubectl} {
		r.Must(os.Symlink(program, filepath.Join(programs, name)))
	}
	variables, err := environment(r.Ctx, home, programs)
	r.Must(err)
	r.session, err = open(r.Ctx, r.Home, root, append(variables, "KUBECONFIG="+r.Cluster.KubeconfigPath()))
	r.Must(err)
	test := r.T
	test.Cleanup(func() {
		if err := r.session.close(); err != nil {
			test.Error(err)
		}
	})
}

// installed: every node has a report, nothing is trusted and nothing was done to any.
func (r *reader) installed(printed string) {
	r.Helper()
	for _, n := range r.Cluster.Nodes() {
		report := r.Report(n.Name())
		if report.Name != n.Name() || report.Status.Verdict == "Trusted" {
			r.Errorf("%s: %s", n.Name(), world.Summary(report))
		}
		if !strings.Contains(printed, "\n"+n.Name()+" ") {
			r.Errorf("the list of reports does not have %s", n.Name())
		}
	}
	r.untouched()
	r.Await("node1", "Unappraised", "")
	r.Condition("node1", v1alpha1.ConditionTpmPresent, metav1.ConditionFalse, "NoTpm")
}

func (r *reader) loggedIn(printed string) {
	r.Helper()
	if !strings.Contains(printed, " knows you as ") {
		r.Errorf("no login:\n%s", printed)
	}
}

// unknownMaker: the emulator's authority is none of the makers that Assay knows, as the text says of such.
func (r *reader) unknownMaker(printed string) {
	r.Helper()
	if !strings.Contains(printed, "timed out") || !strings.Contains(printed, "\nEkNotEndorsed ") {
		r.Errorf("it printed %q, not EkNotEndorsed", printed)
	}
}

// trusted: by the text's policy, and by the document that the text stored.
func (r *reader) trusted(string) {
	r.Helper()
	report := r.Report(node)
	if report.Status.Verdict != "Trusted" || report.Status.Policy != "first" {
		r.Errorf("%s: %s", node, world.Summary(report))
	}
	var documents []string
	for _, d := range report.Status.Documents {
		documents = append(documents, d.Kind+" "+d.Name)
	}
	if diff := cmp.Diff([]string{"Pcr first"}, documents); diff != "" {
		r.Errorf("documents of %s (-want +got):\n%s", node, diff)
	}
	if other := r.Report("node1"); other.Status.Verdict != "Unappraised" || other.Status.Policy != "" {
		r.Errorf("node1: %s", world.Summary(other))
	}
	r.untouched()
}

// untouched: no node has a taint or is cordoned.
func (r *reader) untouched() {
	r.Helper()
	for _, n := range r.Cluster.Nodes() {
		if marks := marks(r.Node(n.Name())); len(marks) > 0 {
			r.Errorf("%s was touched: %v", n.Name(), marks)
		}
	}
}

// marks are a node's taints and its cordon. Those that Kubernetes sets by itself come and go.
func marks(n world.Node) []string {
	var all []string
	for _, t := range n.Spec.Taints {
		if !strings.HasPrefix(t.Key, "node.kubernetes.io/") {
			all = append(all, t.Key+"="+t.Value+":"+t.Effect)
		}
	}
	if n.Spec.Unschedulable {
		all = append(all, "cordoned")
	}
	return all
}

// uninstalled: what is left is exactly what the text says is kept, in the namespace that the chart did not make.
func (r *reader) uninstalled(string) {
	r.Helper()
	kept := []string{
		"AttestationPlatform /cluster", "NodePolicy /first", "NodeReport /node1", "NodeReport /" + node,
		"CustomResourceDefinition /attestationplatforms.integrity.assay.dev", "CustomResourceDefinition /nodepolicies.integrity.assay.dev",
		"CustomResourceDefinition /nodereports.integrity.assay.dev", "APIService /v1alpha1.integrity.assay.dev",
		"Namespace /" + world.Namespace, "ConfigMap " + world.Namespace + "/kube-root-ca.crt", "ServiceAccount " + world.Namespace + "/default",
		"PersistentVolumeClaim " + world.Namespace + "/data-assay-server-0",
	}
	r.left(kept)
}

// gone: nothing is left.
func (r *reader) gone(string) { r.left(nil) }

// left waits until the cluster holds what it did before, and these.
func (r *reader) left(kept []string) {
	r.Helper()
	want := holding{objects: append(slices.Clone(r.before.objects), kept...), nodes: r.before.nodes}
	slices.Sort(want.objects)
	r.Eventually(fmt.Sprintf("%d objects are left, all of them meant to be", len(kept)), time.Minute, func() string {
		return cmp.Diff(want, r.holding(), cmp.AllowUnexported(holding{}))
	})
}

// holding is what a cluster holds.
type holding struct {
	objects []string // each as "Kind namespace/name", sorted
	nodes   []string // the marks and labels of each
}

// fleeting kinds come and go without anybody's doing.
var fleeting = []string{"events", "events.events.k8s.io"}

func (r *reader) holding() holding {
	r.Helper()
	kinds, err := r.Cluster.Kubectl(r.Ctx, "api-resources", "--verbs=list", "--output=name")
	r.Must(err)
	listed := slices.DeleteFunc(strings.Fields(kinds), func(kind string) bool { return slices.Contains(fleeting, kind) })
	out, err := r.Cluster.Kubectl(r.Ctx, "get", strings.Join(listed, ","), "--all-namespaces", "--output",
		`jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{"\n"}{end}`)
	r.Must(err)
	h := holding{objects: strings.Split(strings.TrimSpace(out), "\n")}
	// A kubelet takes its Lease some time after its node is Ready.
	h.objects = slices.DeleteFunc(h.objects, func(object string) bool { return strings.HasPrefix(object, "Lease kube-node-lease/") })
	slices.Sort(h.objects)
	for _, n := range r.Cluster.Nodes() {
		is := r.Node(n.Name())
		h.nodes = append(h.nodes, fmt.Sprint(n.Name(), marks(is), is.Metadata.Labels))
	}
	return h
}

// TestMarks: what only a person or a reaction of ours does to a node shows, what Kubernetes does by itself does not.
func TestMarks(t *testing.T) {
	var n world.Node
	n.Spec.Taints = []struct{ Key, Value, Effect string }{{"node.kubernetes.io/not-ready", "", "NoExecute"}}
	if got := marks(n); len(got) != 0 {
		t.Errorf("marks %v of a node that is not ready", got)
	}
	n.Spec.Taints, n.Spec.Unschedulable = append(n.Spec.Taints, struct{ Key, Value, Effect string }{v1alpha1.TaintUntrusted, "", "NoSchedule"}), true
	if diff := cmp.Diff([]string{v1alpha1.TaintUntrusted + "=:NoSchedule", "cordoned"}, marks(n)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

package integration

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// others are those who write a Node at the worst time: between the operator's reading it and the operator's patch, each time.
type others struct {
	k      *kubeWorld
	node   string
	writes atomic.Int64
	mu     sync.Mutex
	spec   func(*corev1.Node) // what a controller makes of the Node before the operator's next patch of taints; nil for nothing
	again  bool               // and before each further one
}

func (o *others) will(again bool, spec func(*corev1.Node)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.spec, o.again = spec, again
}

// overtake is called with each request of the operator.
func (o *others) overtake(r *http.Request) {
	if r.Method != http.MethodPatch || r.URL.Path != "/api/v1/nodes/"+o.node {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		o.k.t.Error(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	ctx := r.Context()
	node := &corev1.Node{}
	node.Name = o.node
	status := fmt.Appendf(nil, `{"status": {"nodeInfo": {"kernelVersion": "%d"}}}`, o.writes.Add(1))
	if err := o.k.kube.Status().Patch(ctx, node, kube.RawPatch(types.MergePatchType, status)); err != nil {
		o.k.t.Errorf("write the status as the kubelet does: %v", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.spec == nil || !bytes.Contains(body, []byte("taints")) {
		return
	}
	o.spec(node)
	if err := o.k.kube.Update(ctx, node); err != nil {
		o.k.t.Errorf("write taints as a controller does: %v", err)
	}
	if !o.again {
		o.spec = nil
	}
}

var foreign = corev1.Taint{Key: "example.com/maintenance", Effect: corev1.TaintEffectNoSchedule}

func isForeign(t corev1.Taint) bool { return t.Key == foreign.Key }

// TestReactionToABusyNode: a kubelet that writes its status before each of the operator's patches keeps off no label, no taint and no lifting. A taint of
// others that comes or goes meanwhile is neither lost nor brought back, and taints that never stand still are told.
func TestReactionToABusyNode(t *testing.T) {
	k := newKubeWorld(t)
	k.operator()
	busy := &others{k: k, node: "a"}
	k.before = busy.overtake
	k.startOperator()
	k.node("a")
	h := k.agentOn("a")
	h.start()
	k.enforce(h, "Enforce", "a")
	k.reason("a", v1alpha1.ConditionTrusted, "Trusted")
	k.nodeIs("a", "labelled", func(n *corev1.Node) bool { return n.Labels[v1alpha1.LabelVerdict] == "Trusted" })

	busy.will(true, func(n *corev1.Node) {
		if len(n.Spec.Taints) > 0 {
			n.Spec.Taints = nil
		} else {
			n.Spec.Taints = []corev1.Taint{foreign}
		}
	})
	h.run("/tmp/intruder", "not approved")
	k.event("a", "ReactionFailed")
	k.eventually("the server knows why", func() bool {
		open, err := k.admin.Reactions(t.Context(), "")
		return err == nil && slices.ContainsFunc(open, func(r api.Reaction) bool { return strings.Contains(r.Detail, "tries in a row failed") })
	})

	busy.will(false, func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{foreign} })
	k.nodeIs("a", "quarantined, with the taint of others", func(n *corev1.Node) bool {
		return quarantined(n) && slices.ContainsFunc(n.Spec.Taints, isForeign)
	})
	k.eventually("the reaction is told as applied", func() bool {
		applied, err := k.admin.Reactions(t.Context(), string(api.ReactionApplied))
		return err == nil && len(applied) == 1
	})

	busy.will(false, func(n *corev1.Node) { n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, isForeign) })
	h.reboot()
	k.nodeIs("a", "free, and of the other taint too", func(n *corev1.Node) bool { return untouched(n) && !slices.ContainsFunc(n.Spec.Taints, isForeign) })
	if n := busy.writes.Load(); n < 5 {
		t.Errorf("the status was written %d times", n)
	}
}

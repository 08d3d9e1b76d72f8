package world

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-project/assay/kube/v1alpha1"
	"github.com/assay-project/assay/lab/cluster"
)

// Group is the path of the kinds of Assay.
const Group = "/apis/integrity.assay.dev/v1alpha1/"

// Report reads a node's NodeReport; an empty one while there is none.
func (w *World) Report(node string) v1alpha1.NodeReport {
	w.Helper()
	var r v1alpha1.NodeReport
	if err := w.Object(Group+"nodereports/"+node, &r); err != nil && !errors.Is(err, cluster.ErrNotFound) {
		w.Tell("NodeReport %s: %v", node, err)
	}
	return r
}

// Summary is a report in one line.
func Summary(r v1alpha1.NodeReport) string {
	var words []string
	for _, c := range r.Status.Conditions {
		words = append(words, fmt.Sprintf("%s=%s (%s: %s)", c.Type, c.Status, c.Reason, c.Message))
	}
	for _, f := range r.Status.Failures {
		words = append(words, f.ID+" "+f.Path+" "+f.Detail)
	}
	return fmt.Sprintf("verdict %q under %q: %s", r.Status.Verdict, r.Status.Policy, strings.Join(words, "; "))
}

// Await waits for a node's verdict, as its NodeReport tells it, under the NodePolicy of that name ("" for none).
func (w *World) Await(node, verdict, policy string) v1alpha1.NodeReport {
	w.Helper()
	var r v1alpha1.NodeReport
	w.Eventually(fmt.Sprintf("%s is %s under %q", node, verdict, policy), Slow, func() string {
		if r = w.Report(node); r.Status.Verdict != verdict || r.Status.Policy != policy {
			return Summary(r)
		}
		return ""
	})
	return r
}

// Condition waits for a condition of a NodeReport.
func (w *World) Condition(node, kind string, status metav1.ConditionStatus, reason string) {
	w.Helper()
	w.Eventually(fmt.Sprintf("%s has %s=%s (%s)", node, kind, status, reason), Slow, func() string {
		r := w.Report(node)
		if c := meta.FindStatusCondition(r.Status.Conditions, kind); c == nil || c.Status != status || reason != "" && c.Reason != reason {
			return Summary(r)
		}
		return ""
	})
}

// Node is what the stories look at of a Node.
type Node struct {
	Metadata struct {
		UID    string
		Labels map[string]string
	}
	Spec struct {
		Unschedulable bool
		Taints        []struct{ Key, Value, Effect string }
	}
}

func (w *World) Node(name string) Node {
	w.Helper()
	var n Node
	w.Must(w.Object("/api/v1/nodes/"+name, &n))
	return n
}

func (w *World) Tainted(name string) bool {
	w.Helper()
	return slices.ContainsFunc(w.Node(name).Spec.Taints, func(t struct{ Key, Value, Effect string }) bool { return t.Key == v1alpha1.TaintUntrusted })
}

// Untouched says that none of the nodes carries our taint.
func (w *World) Untouched(nodes ...string) {
	w.Helper()
	for _, name := range nodes {
		if w.Tainted(name) {
			w.Errorf("%s is tainted", name)
		}
	}
}

// Event waits for an Event about a node.
func (w *World) Event(node, reason, text string) {
	w.Helper()
	w.Eventually(fmt.Sprintf("an Event %s about %s tells %q", reason, node, text), time.Minute, func() string {
		out, err := w.Cluster.Kubectl(w.Ctx, "get", "events", "-A", "-o", `jsonpath={range .items[*]}{.reason}{"\t"}{.involvedObject.name}{"\t"}{.message}{"\n"}{end}`)
		if err != nil {
			return err.Error()
		}
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, reason+"\t") && strings.Contains(line, node) && strings.Contains(line, text) {
				return ""
			}
		}
		return out
	})
}

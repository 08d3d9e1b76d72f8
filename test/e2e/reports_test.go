package e2e

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

const group = "/apis/integrity.assay.dev/v1alpha1/"

// report reads a node's NodeReport; an empty one while there is none.
func (w *world) report(node string) v1alpha1.NodeReport {
	w.Helper()
	var r v1alpha1.NodeReport
	if err := w.object(group+"nodereports/"+node, &r); err != nil && !errors.Is(err, cluster.ErrNotFound) {
		w.tell("NodeReport %s: %v", node, err)
	}
	return r
}

// summary is a report in one line.
func summary(r v1alpha1.NodeReport) string {
	var words []string
	for _, c := range r.Status.Conditions {
		words = append(words, fmt.Sprintf("%s=%s (%s: %s)", c.Type, c.Status, c.Reason, c.Message))
	}
	for _, f := range r.Status.Failures {
		words = append(words, f.ID+" "+f.Path+" "+f.Detail)
	}
	return fmt.Sprintf("verdict %q under %q: %s", r.Status.Verdict, r.Status.Policy, strings.Join(words, "; "))
}

// await waits for a node's verdict, as its NodeReport tells it, under the NodePolicy of that name ("" for none).
func (w *world) await(node, verdict, policy string) v1alpha1.NodeReport {
	w.Helper()
	var r v1alpha1.NodeReport
	w.eventually(fmt.Sprintf("%s is %s under %q", node, verdict, policy), slow, func() string {
		if r = w.report(node); r.Status.Verdict != verdict || r.Status.Policy != policy {
			return summary(r)
		}
		return ""
	})
	return r
}

// condition waits for a condition of a NodeReport.
func (w *world) condition(node, kind string, status metav1.ConditionStatus, reason string) {
	w.Helper()
	w.eventually(fmt.Sprintf("%s has %s=%s (%s)", node, kind, status, reason), slow, func() string {
		r := w.report(node)
		if c := meta.FindStatusCondition(r.Status.Conditions, kind); c == nil || c.Status != status || reason != "" && c.Reason != reason {
			return summary(r)
		}
		return ""
	})
}

// node is what the stories look at of a Node.
type node struct {
	Metadata struct {
		UID    string
		Labels map[string]string
	}
	Spec struct {
		Unschedulable bool
		Taints        []struct{ Key, Value, Effect string }
	}
}

func (w *world) node(name string) node {
	w.Helper()
	var n node
	w.must(w.object("/api/v1/nodes/"+name, &n))
	return n
}

func (w *world) tainted(name string) bool {
	w.Helper()
	return slices.ContainsFunc(w.node(name).Spec.Taints, func(t struct{ Key, Value, Effect string }) bool { return t.Key == v1alpha1.TaintUntrusted })
}

// untouched says that none of the nodes carries our taint.
func (w *world) untouched(nodes ...string) {
	w.Helper()
	for _, name := range nodes {
		if w.tainted(name) {
			w.Errorf("%s is tainted", name)
		}
	}
}

// event waits for an Event about a node.
func (w *world) event(node, reason, text string) {
	w.Helper()
	w.eventually(fmt.Sprintf("an Event %s about %s tells %q", reason, node, text), time.Minute, func() string {
		out, err := w.cluster.Kubectl(w.ctx, "get", "events", "-A", "-o", `jsonpath={range .items[*]}{.reason}{"\t"}{.involvedObject.name}{"\t"}{.message}{"\n"}{end}`)
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

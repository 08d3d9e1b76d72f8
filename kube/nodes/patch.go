package nodes

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// patchTries is how often a Node is read and patched in a row, when others' writes come in between, before that is told as a failure.
const patchTries = 6

// patchNode makes of a Node, as it was read, what change makes of it. No patch depends on the Node's resource version: its kubelet writes the status as
// often as it likes, and one that did so all the time would keep off every taint. What others write meanwhile stays.
func (r *Reconciler) patchNode(ctx context.Context, node *corev1.Node, change func(*corev1.Node)) error {
	var lost error
	for try := range patchTries {
		if try > 0 {
			live := &corev1.Node{}
			if err := r.Reader.Get(ctx, client.ObjectKeyFromObject(node), live); err != nil {
				return fmt.Errorf("read Node %s again: %w", node.Name, err)
			}
			if live.UID != node.UID {
				return fmt.Errorf("node %s was replaced meanwhile", node.Name)
			}
			node = live
		}
		after := node.DeepCopy()
		change(after)
		err := r.patchOnce(ctx, node, after)
		if !overtaken(err) {
			return err
		}
		lost = err
	}
	// Not wrapped: a conflict is tried again in silence, and this one has to be told.
	return fmt.Errorf("%d tries in a row failed, each on the Node as it was just then: %v", patchTries, lost)
}

// overtaken reports whether something was not as it had been read: the API server answers a failed test with 422, a race that it lost itself with 409.
func overtaken(err error) bool { return apierrors.IsConflict(err) || apierrors.IsInvalid(err) }

// patchOnce sends what differs. Taints go first, and alone: they are one list, which a merge patch would replace with all that others put there.
func (r *Reconciler) patchOnce(ctx context.Context, before, after *corev1.Node) error {
	if steps := taintSteps(before, after); len(steps) > 0 {
		if err := r.send(ctx, before, types.JSONPatchType, steps); err != nil {
			return err
		}
	}
	if members := memberPatch(before, after); members != nil {
		return r.send(ctx, before, types.MergePatchType, members)
	}
	return nil
}

func (r *Reconciler) send(ctx context.Context, node *corev1.Node, kind types.PatchType, content any) error {
	data, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("patch Node %s: %w", node.Name, err)
	}
	if err := r.Client.Patch(ctx, &corev1.Node{ObjectMeta: node.ObjectMeta}, client.RawPatch(kind, data)); err != nil {
		return fmt.Errorf("patch Node %s: %w", node.Name, err)
	}
	return nil
}

// step is an operation of RFC 6902. A test of null passes where there is nothing.
type step struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

const taintsPath = "/spec/taints"

// taintSteps make one list of taints of the other. Each step tests what it takes away, and what it adds goes to the end, so that a taint that came or went
// since the list was read is neither lost nor brought back.
func taintSteps(before, after *corev1.Node) []step {
	var steps []step
	for i, t := range slices.Backward(before.Spec.Taints) {
		if !containsTaint(after, t) {
			path := fmt.Sprintf("%s/%d", taintsPath, i)
			steps = append(steps, step{"test", path, t}, step{Op: "remove", Path: path})
		}
	}
	var missing []corev1.Taint
	for _, t := range after.Spec.Taints {
		if !containsTaint(before, t) {
			missing = append(missing, t)
		}
	}
	if len(before.Spec.Taints) == 0 && len(missing) > 0 {
		steps = append(steps, step{"test", taintsPath, nil}, step{"add", taintsPath, missing})
	} else {
		for _, t := range missing {
			steps = append(steps, step{"add", taintsPath + "/-", t})
		}
	}
	if len(steps) == 0 {
		return nil
	}
	return append([]step{{"test", "/metadata/uid", before.UID}}, steps...)
}

func containsTaint(n *corev1.Node, t corev1.Taint) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(other corev1.Taint) bool {
		return other.Key == t.Key && other.Value == t.Value && other.Effect == t.Effect
	})
}

// memberPatch sets labels and the cordon by RFC 7386, whatever they are by now; nil for nothing to set. The UID cannot be changed: on another Node of the
// name the patch fails.
func memberPatch(before, after *corev1.Node) map[string]any {
	labels := map[string]any{}
	for key, value := range after.Labels {
		if old, ok := before.Labels[key]; !ok || old != value {
			labels[key] = value
		}
	}
	for key := range before.Labels {
		if _, ok := after.Labels[key]; !ok {
			labels[key] = nil
		}
	}
	metadata, patch := map[string]any{"uid": before.UID}, map[string]any{}
	if len(labels) > 0 {
		metadata["labels"] = labels
	}
	if before.Spec.Unschedulable != after.Spec.Unschedulable {
		patch["spec"] = map[string]any{"unschedulable": after.Spec.Unschedulable}
	}
	if len(labels) == 0 && len(patch) == 0 {
		return nil
	}
	patch["metadata"] = metadata
	return patch
}

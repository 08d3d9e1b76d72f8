package platform

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/assay-project/assay/kube/v1alpha1"
)

// Cleanup takes away what the operator made, and waits until it is gone: the operator itself first, so that it makes nothing anew, then workloads and
// configuration, then taints, labels and cordons of ours. CRDs, their objects and the server's volume stay. All members must be set.
type Cleanup struct {
	Client    client.Client
	Namespace string
	// Deployment is the operator's own.
	Deployment string
	// Lease is the lock of the operator's leader.
	Lease string
	Log   *slog.Logger
	// Poll is the time between two looks.
	Poll time.Duration
}

// Run cleans up until nothing is left or ctx ends; the error says what is left.
func (c *Cleanup) Run(ctx context.Context) error {
	for _, stage := range []struct {
		name string
		once func(context.Context) (left int, err error)
	}{{"operator", c.operator}, {"workloads", c.workloads}, {"nodes", c.nodes}} {
		for {
			left, err := stage.once(ctx)
			if err == nil && left == 0 {
				break
			}
			c.Log.Info("clean up", "stage", stage.name, "left", left, "err", err)
			if err != nil && !apierrors.IsConflict(err) {
				return fmt.Errorf("clean up %s: %w", stage.name, err)
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("clean up %s: %d left: %w", stage.name, left, ctx.Err())
			case <-time.After(c.Poll):
			}
		}
	}
	return nil
}

// operator stops the operator and counts its pods. Once there is none, nobody takes the lock again.
func (c *Cleanup) operator(ctx context.Context) (int, error) {
	var d appsv1.Deployment
	if err := c.Client.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: c.Deployment}, &d); apierrors.IsNotFound(err) {
		return 0, c.unlock(ctx)
	} else if err != nil {
		return 0, err
	}
	if d.Spec.Replicas == nil || *d.Spec.Replicas != 0 {
		changed, none := d.DeepCopy(), int32(0)
		changed.Spec.Replicas = &none
		if err := c.Client.Patch(ctx, changed, client.MergeFrom(&d)); err != nil {
			return 0, err
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return 0, err
	}
	var pods corev1.PodList
	if err := c.Client.List(ctx, &pods, client.InNamespace(c.Namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return 0, err
	}
	if len(pods.Items) > 0 {
		return len(pods.Items), nil
	}
	return 0, c.unlock(ctx)
}

func (c *Cleanup) unlock(ctx context.Context) error {
	lock := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: c.Lease}}
	return client.IgnoreNotFound(c.Client.Delete(ctx, lock))
}

// workloads deletes our objects in the namespace and counts what is left of them and of their pods.
func (c *Cleanup) workloads(ctx context.Context) (int, error) {
	left := 0
	lists := []client.ObjectList{
		&appsv1.DaemonSetList{}, &appsv1.StatefulSetList{}, &corev1.ServiceList{}, &corev1.ConfigMapList{}, &corev1.SecretList{}, &corev1.ServiceAccountList{},
	}
	for _, list := range lists {
		if err := c.Client.List(ctx, list, client.InNamespace(c.Namespace), client.MatchingLabels(labels(""))); err != nil {
			return left, err
		}
		err := meta.EachListItem(list, func(o runtime.Object) error {
			left++
			object, ok := o.(client.Object)
			if !ok || object.GetDeletionTimestamp() != nil {
				return nil
			}
			return client.IgnoreNotFound(c.Client.Delete(ctx, object, client.PropagationPolicy(metav1.DeletePropagationForeground)))
		})
		if err != nil {
			return left, err
		}
	}
	var pods corev1.PodList
	err := c.Client.List(ctx, &pods, client.InNamespace(c.Namespace), client.MatchingLabels(labels("")))
	return left + len(pods.Items), err
}

// nodes undoes what is ours on each Node. A cordon goes where the report says that it is ours.
func (c *Cleanup) nodes(ctx context.Context) (int, error) {
	var reports v1alpha1.NodeReportList
	if err := c.Client.List(ctx, &reports); err != nil && !meta.IsNoMatchError(err) {
		return 0, err
	}
	cordoned := map[string]bool{}
	for _, r := range reports.Items {
		cordoned[r.Name] = r.Status.Reaction != nil && r.Status.Reaction.Cordoned
	}
	var nodes corev1.NodeList
	if err := c.Client.List(ctx, &nodes); err != nil {
		return 0, err
	}
	left := 0
	for i := range nodes.Items {
		changed := nodes.Items[i].DeepCopy()
		if !strip(changed, cordoned[changed.Name]) {
			continue
		}
		if err := c.Client.Patch(ctx, changed, client.MergeFromWithOptions(&nodes.Items[i], client.MergeFromWithOptimisticLock{})); err != nil {
			if left++; !apierrors.IsConflict(err) {
				return left, err
			}
		}
	}
	if left > 0 {
		return left, nil
	}
	return 0, c.forget(ctx, reports.Items)
}

// forget clears the record of what was done, once it is undone.
func (c *Cleanup) forget(ctx context.Context, reports []v1alpha1.NodeReport) error {
	for i := range reports {
		if reports[i].Status.Reaction == nil {
			continue
		}
		changed := reports[i].DeepCopy()
		changed.Status.Reaction = nil
		if err := c.Client.Status().Patch(ctx, changed, client.MergeFrom(&reports[i])); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// strip takes our taint and labels off a Node, and the cordon if it is ours, and reports whether anything was there.
func strip(node *corev1.Node, cordoned bool) bool {
	found := false
	for _, label := range []string{v1alpha1.LabelTPM, v1alpha1.LabelVerdict} {
		if _, ok := node.Labels[label]; ok {
			delete(node.Labels, label)
			found = true
		}
	}
	ours := func(t corev1.Taint) bool { return t.Key == v1alpha1.TaintUntrusted }
	if slices.ContainsFunc(node.Spec.Taints, ours) {
		node.Spec.Taints, found = slices.DeleteFunc(node.Spec.Taints, ours), true
	}
	if cordoned && node.Spec.Unschedulable {
		node.Spec.Unschedulable, found = false, true
	}
	return found
}

package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/assay-project/assay/kube/rights"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// Reasons of the condition Permitted.
const (
	ReasonPermissionMissing = "PermissionMissing"
	ReasonRightsComplete    = "RightsComplete"
	ReasonRightsUnknown     = "RightsUnknown"
)

// permission is what the last look at the rights came to.
type permission struct {
	at      time.Time
	wanted  rights.Setting
	missing []rights.Right
	err     error
}

// permitted looks whether the operator may do all that this specification needs.
func (r *Reconciler) permitted(ctx context.Context, spec v1alpha1.PlatformSpec, found findings) {
	want := rights.Setting{Namespace: r.Namespace, CertManager: spec.Certificates.Source == v1alpha1.SourceCertManager}
	if now := r.Now(); r.permission.wanted != want || now.Sub(r.permission.at).Abs() >= r.RightsInterval {
		r.permission = permission{at: now, wanted: want}
		r.permission.missing, r.permission.err = rights.Missing(ctx, r.Client, rights.All(want))
	}
	switch p := r.permission; {
	case p.err != nil:
		found.set(v1alpha1.ConditionPermitted, metav1.ConditionUnknown, ReasonRightsUnknown, p.err.Error())
	case len(p.missing) > 0:
		found.set(v1alpha1.ConditionPermitted, metav1.ConditionFalse, ReasonPermissionMissing, rights.Explain(p.missing))
	default:
		found.set(v1alpha1.ConditionPermitted, metav1.ConditionTrue, ReasonRightsComplete, "the operator may do all that it has to")
	}
}

// Complaint tells, before an operator can begin, which rights keep it from that: on the AttestationPlatform if there is one, and by an Event on
// the ConfigMap of values, which the chart made. All members must be set.
type Complaint struct {
	Client    client.Client
	Namespace string
	// Values is the name of the ConfigMap of values.
	Values string
	Now    func() time.Time
}

// Write tells it. An error says that it could be told nowhere else than in the operator's log.
func (c *Complaint) Write(ctx context.Context, missing []rights.Right) error {
	text := readable(rights.Explain(missing))
	condition, event := c.condition(ctx, text), c.event(ctx, text)
	if condition != nil && event != nil {
		return fmt.Errorf("tell of missing rights: %w", errors.Join(condition, event))
	}
	return nil
}

// condition sets two of the platform's conditions. They are one list, and another operator may be at it: what it wrote since the list was read stays.
func (c *Complaint) condition(ctx context.Context, text string) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		var p v1alpha1.AttestationPlatform
		if err := c.Client.Get(ctx, client.ObjectKey{Name: v1alpha1.PlatformName}, &p); err != nil {
			return err
		}
		changed := p.DeepCopy()
		for _, kind := range []string{v1alpha1.ConditionPermitted, v1alpha1.ConditionReady} {
			meta.SetStatusCondition(&changed.Status.Conditions, metav1.Condition{
				Type: kind, Status: metav1.ConditionFalse, Reason: ReasonPermissionMissing, Message: text, ObservedGeneration: p.Generation, LastTransitionTime: metav1.NewTime(c.Now()),
			})
		}
		return c.Client.Status().Patch(ctx, changed, client.MergeFromWithOptions(&p, client.MergeFromWithOptimisticLock{}))
	})
}

// event makes one Event, or counts it on.
func (c *Complaint) event(ctx context.Context, text string) error {
	now := metav1.NewTime(c.Now())
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: c.Namespace, Name: c.Values + ".permission-missing"},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Namespace: c.Namespace, Name: c.Values},
		Type:           corev1.EventTypeWarning, Reason: ReasonPermissionMissing, Message: text[:min(len(text), 1000)], FirstTimestamp: now, LastTimestamp: now, Count: 1,
		Source: corev1.EventSource{Component: "assay-operator"},
	}
	if err := c.Client.Create(ctx, e); !apierrors.IsAlreadyExists(err) {
		return err
	}
	patch, err := json.Marshal(map[string]any{"message": e.Message, "lastTimestamp": now})
	if err != nil {
		return err
	}
	return c.Client.Patch(ctx, e, client.RawPatch(types.MergePatchType, patch))
}

package platform

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/assay-project/assay/kube/v1alpha1"
)

// keySpec is the key of the ConfigMap of values.
const keySpec = "spec.yaml"

// AnnotationError on the ConfigMap of values says what is wrong with it; it is absent when nothing is.
const AnnotationError = "integrity.assay.dev/error"

// ValuesReconciler makes the AttestationPlatform of the chart's ConfigMap of values. All members must be set.
type ValuesReconciler struct {
	Client client.Client
	Events events.EventRecorder
	// Namespace and Name are the ConfigMap's.
	Namespace, Name string
	Log             *slog.Logger
}

// Reconcile implements reconcile.Reconciler. Values that are wrong change nothing: the platform stays as it was.
func (r *ValuesReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	if req.Name != r.Name {
		return ctrl.Result{}, nil
	}
	var values corev1.ConfigMap
	if err := r.Client.Get(ctx, req.NamespacedName, &values); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	platform, wrong := parseValues(values.Data)
	if wrong == nil {
		err := r.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(platform), client.FieldOwner("assay-values"), client.ForceOwnership)
		if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) {
			wrong = err
		} else if err != nil {
			return ctrl.Result{}, fmt.Errorf("write AttestationPlatform: %w", err)
		}
	}
	return ctrl.Result{}, r.say(ctx, &values, wrong)
}

// say puts the mistake where whoever wrote the values looks.
func (r *ValuesReconciler) say(ctx context.Context, values *corev1.ConfigMap, wrong error) error {
	text := ""
	if wrong != nil {
		text = wrong.Error()
		r.Log.Error("values are wrong; the platform stays as it was", "configmap", values.Name, "err", wrong)
	}
	if values.Annotations[AnnotationError] == text {
		return nil
	}
	changed := values.DeepCopy()
	if changed.Annotations == nil {
		changed.Annotations = map[string]string{}
	}
	if changed.Annotations[AnnotationError] = text; wrong == nil {
		delete(changed.Annotations, AnnotationError)
	} else {
		r.Events.Eventf(values, nil, corev1.EventTypeWarning, "ValuesInvalid", "Apply", "%.900s", text)
	}
	if err := r.Client.Patch(ctx, changed, client.MergeFrom(values)); err != nil {
		return fmt.Errorf("annotate ConfigMap %s: %w", values.Name, err)
	}
	return nil
}

// parseValues makes the platform of the values. Unknown keys are refused, as everywhere; what the values mean is the API server's to check.
func parseValues(data map[string]string) (*unstructured.Unstructured, error) {
	text, ok := data[keySpec]
	if !ok {
		return nil, errors.New(keySpec + " is missing")
	}
	var known v1alpha1.PlatformSpec
	if err := yaml.UnmarshalStrict([]byte(text), &known); err != nil {
		return nil, fmt.Errorf("%s: %w", keySpec, err)
	}
	spec := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &spec); err != nil {
		return nil, fmt.Errorf("%s: %w", keySpec, err)
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1alpha1.GroupVersion().String(), "kind": "AttestationPlatform", "metadata": map[string]any{"name": v1alpha1.PlatformName, "labels": anyMap(labels(""))}, "spec": spec,
	}}, nil
}

package platform

import (
	"context"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// annotationRevision on our CRDs counts their changes; the types in kube/v1alpha1 set it.
const annotationRevision = "integrity.assay.dev/revision"

// ApplyCRDs installs CRDs that the cluster lacks or has in an older revision. Helm installs CRDs once and never changes them. A newer one is left
// alone: another operator of a newer version may be taking over.
func ApplyCRDs(ctx context.Context, c client.Client, from fs.FS) (changed []string, err error) {
	paths, err := fs.Glob(from, "chart/crds/*.yaml")
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		text, err := fs.ReadFile(from, path)
		if err != nil {
			return changed, err
		}
		ours := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(text, &ours.Object); err != nil {
			return changed, fmt.Errorf("%s: %w", path, err)
		}
		newer, err := isNewer(ctx, c, ours)
		if err != nil {
			return changed, err
		}
		if !newer {
			continue
		}
		unstructured.RemoveNestedField(ours.Object, "status")
		if err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(ours), client.FieldOwner(fieldOwner), client.ForceOwnership); err != nil {
			return changed, fmt.Errorf("apply CRD %s: %w", ours.GetName(), err)
		}
		changed = append(changed, ours.GetName())
	}
	for _, name := range changed {
		if err := established(ctx, c, name); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// established waits until the API server serves a CRD.
func established(ctx context.Context, c client.Client, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		crd := &unstructured.Unstructured{}
		crd.SetAPIVersion("apiextensions.k8s.io/v1")
		crd.SetKind("CustomResourceDefinition")
		if err := c.Get(ctx, client.ObjectKey{Name: name}, crd); err != nil {
			return fmt.Errorf("wait for CRD %s: %w", name, err)
		}
		conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
		for _, each := range conditions {
			if c, ok := each.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("CRD %s is not established: %w", name, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func isNewer(ctx context.Context, c client.Client, ours *unstructured.Unstructured) (bool, error) {
	want, err := revision(ours)
	if err != nil {
		return false, err
	}
	theirs := &unstructured.Unstructured{}
	theirs.SetGroupVersionKind(ours.GroupVersionKind())
	if err := c.Get(ctx, client.ObjectKeyFromObject(ours), theirs); apierrors.IsNotFound(err) {
		return true, nil
	} else if err != nil {
		return false, fmt.Errorf("read CRD %s: %w", ours.GetName(), err)
	}
	have, err := revision(theirs)
	return err != nil || have < want, nil // one without a revision is older than all
}

func revision(crd *unstructured.Unstructured) (int, error) {
	n, err := strconv.Atoi(crd.GetAnnotations()[annotationRevision])
	if err != nil {
		return 0, fmt.Errorf("CRD %s: annotation %s: %w", crd.GetName(), annotationRevision, err)
	}
	return n, nil
}

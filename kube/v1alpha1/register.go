package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Group is the API group, and the prefix of our labels, taints and annotations.
const Group = "integrity.assay.dev"

// GroupVersion returns the group and version of this package.
func GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: Group, Version: "v1alpha1"}
}

// AddToScheme registers the kinds of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion(), &AttestationPlatform{}, &AttestationPlatformList{}, &NodePolicy{}, &NodePolicyList{}, &NodeReport{}, &NodeReportList{})
	metav1.AddToGroupVersion(s, GroupVersion())
	return nil
}

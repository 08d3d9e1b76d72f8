// Package v1alpha1 is the Kubernetes API of Assay, group integrity.assay.dev: AttestationPlatform (what runs), NodePolicy (what is demanded
// of which nodes) and NodeReport (what was proven of one).
//
// It holds types, defaults and the rules that the API server checks, and no behaviour. `go generate` makes the deep copies here and the
// CRDs in deploy/chart/crds. What a policy document says stands in the server's store; the objects name it by digest.
//
// +groupName=integrity.assay.dev
// +kubebuilder:object:generate=true
package v1alpha1

//go:generate go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0 object crd paths=. output:crd:dir=../../deploy/chart/crds

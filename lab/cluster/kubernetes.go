package cluster

import "context"

// Kubernetes builds the programs of Kubernetes alone, unless the cache has them, and returns their folder. It holds etcd, kube-apiserver and kubectl under
// these names: what controller-runtime's envtest looks for.
func Kubernetes(ctx context.Context, c BuildConfig) (string, error) { return parts()[0].only(ctx, c) }

// Kwok builds kwok unless the cache has it, and returns its path. It plays the kubelets of nodes that are objects only; no cluster of this package needs it.
func Kwok(ctx context.Context, c BuildConfig) (string, error) {
	folder, err := kwok().only(ctx, c)
	return programs{"kwok": folder}.path("kwok", "kwok"), err
}

func kwok() part {
	return part{
		name: "kwok", source: "test/cluster/kwok", packages: []string{"sigs.k8s.io/kwok/cmd/kwok"},
		programs: []string{"kwok"}, patience: "2 minutes",
	}
}

// only builds a part without the others.
func (p part) only(ctx context.Context, c BuildConfig) (string, error) {
	c, err := c.withDefaults()
	if err != nil {
		return "", err
	}
	return p.build(ctx, c)
}

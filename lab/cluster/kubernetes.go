package cluster

import "context"

// Kubernetes builds the programs of Kubernetes alone, unless the cache has them, and returns their folder. It holds etcd, kube-apiserver and kubectl under
// these names: what controller-runtime's envtest looks for.
func Kubernetes(ctx context.Context, c BuildConfig) (string, error) {
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	var err error
	if c.Checkout == "" {
		if c.Checkout, err = findCheckout(); err != nil {
			return "", err
		}
	}
	if c.Cache == "" {
		if c.Cache, err = cacheFolder(); err != nil {
			return "", err
		}
	}
	return parts()[0].build(ctx, c)
}

package controller

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/assay-project/assay/kube/platform"
)

// CleanupConfig says what is cleaned up.
type CleanupConfig struct {
	Namespace string
	// Deployment is the operator's own, which is stopped first.
	Deployment string
	Log        *slog.Logger
}

// Cleanup takes away what the operator made and waits until it is gone, or until ctx ends.
func Cleanup(ctx context.Context, rc *rest.Config, cfg CleanupConfig) error {
	scheme, err := Scheme()
	if err != nil {
		return err
	}
	direct, err := client.New(rc, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("connect to the API server: %w", err)
	}
	c := platform.Cleanup{Client: direct, Namespace: cfg.Namespace, Deployment: cfg.Deployment, Lease: leaseName, Log: cfg.Log, Poll: time.Second}
	return c.Run(ctx)
}

func defaultRegisterer() prometheus.Registerer { return metrics.Registry }

// APIServer finds the API server: in a pod by its service account, otherwise by KUBECONFIG.
func APIServer() (*rest.Config, error) {
	rc, err := config.GetConfig()
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	return rc, nil
}

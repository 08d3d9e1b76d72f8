// Command assay-operator runs Assay in a Kubernetes cluster: it makes the control plane and the agents, enrols nodes, assigns policies and
// reacts. `device-plugin` offers a node's TPM to pods, `cleanup` takes everything away before the chart is removed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/kube/controller"
	"github.com/assay-project/assay/kube/deviceplugin"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// Config is the documented configuration: YAML, each key also by environment (ASSAY_NAMESPACE, ASSAY_IMAGES_SERVER, ...).
type Config struct {
	// Namespace is the operator's own; everything is made there.
	Namespace string `json:"namespace"`
	// Values is the name of the ConfigMap of values, Deployment of the operator's own Deployment, which cleanup stops.
	Values     string `json:"values"`
	Deployment string `json:"deployment"`
	// Images are used where the AttestationPlatform names none.
	Images Images `json:"images"`
	// Metrics is where /metrics, /healthz and /readyz are served.
	Metrics string `json:"metrics"`
	// LeaderElection lets several operators wait for one.
	LeaderElection bool `json:"leaderElection"`
	// LogLevel is debug, info, warn or error.
	LogLevel string `json:"logLevel"`
}

// Images are the container images.
type Images struct {
	Server   string `json:"server"`
	Agent    string `json:"agent"`
	Operator string `json:"operator"`
	Swtpm    string `json:"swtpm"`
}

// Check reports every mistake at once.
func (c Config) Check() error {
	var mistakes []error
	if c.Namespace == "" {
		mistakes = append(mistakes, errors.New("namespace: is empty; in a pod set ASSAY_NAMESPACE from metadata.namespace"))
	}
	if c.Values == "" {
		mistakes = append(mistakes, errors.New("values: is empty"))
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		mistakes = append(mistakes, fmt.Errorf("logLevel: %q is none of debug, info, warn, error", c.LogLevel))
	}
	return errors.Join(mistakes...)
}

func main() { cli.Main(root()) }

func root() *cobra.Command {
	var path string
	var check bool
	cmd := &cobra.Command{
		Use:   "assay-operator",
		Short: "Run Assay in a Kubernetes cluster",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load(path)
			if err != nil {
				return err
			}
			if check {
				return cli.PrintConfig(cmd, cfg)
			}
			rc, err := controller.APIServer()
			if err != nil {
				return err
			}
			return controller.Run(cmd.Context(), rc, controller.Config{
				Namespace: cfg.Namespace, Values: cfg.Values, Metrics: cfg.Metrics, LeaderElection: cfg.LeaderElection, Log: logger(cmd.ErrOrStderr(), cfg.LogLevel),
				Images: v1alpha1.Images{Server: cfg.Images.Server, Agent: cfg.Images.Agent, Operator: cfg.Images.Operator, Swtpm: cfg.Images.Swtpm},
			})
		},
	}
	cmd.PersistentFlags().StringVarP(&path, "config", "c", "", "configuration file; without it the environment alone counts")
	cmd.Flags().BoolVar(&check, "check-config", false, "print the effective configuration and every mistake in it, and exit")
	cmd.AddCommand(cleanup(&path), devicePlugin(), cli.VersionCommand())
	return cmd
}

func load(path string) (Config, error) {
	cfg := Config{Values: "assay-values", Deployment: "assay-operator", Metrics: ":9464", LeaderElection: true, LogLevel: "info"}
	err := cli.LoadConfig(path, &cfg)
	return cfg, err
}

func logger(w io.Writer, text string) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(text)) // checked
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

func cleanup(path *string) *cobra.Command {
	var patience time.Duration
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Take away what the operator made, and wait until it is gone",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load(*path)
			if err != nil {
				return err
			}
			rc, err := controller.APIServer()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), patience)
			defer cancel()
			return controller.Cleanup(ctx, rc, controller.CleanupConfig{Namespace: cfg.Namespace, Deployment: cfg.Deployment, Log: logger(cmd.ErrOrStderr(), cfg.LogLevel)})
		},
	}
	cmd.Flags().DurationVar(&patience, "timeout", 4*time.Minute, "give up after this time")
	return cmd
}

func devicePlugin() *cobra.Command {
	var cfg deviceplugin.Config
	cmd := &cobra.Command{
		Use:   "device-plugin",
		Short: "Offer this node's TPM to pods as the resource " + v1alpha1.ResourceTPM,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Shares < 1 || strings.Contains(cfg.Device, "/") {
				return cli.Usage(fmt.Errorf("--shares %d, --device %q: want a positive number and a plain name", cfg.Shares, cfg.Device))
			}
			cfg.Log = logger(cmd.ErrOrStderr(), "info")
			return deviceplugin.New(cfg).Run(cmd.Context())
		},
	}
	cmd.Flags().IntVar(&cfg.Shares, "shares", 8, "how many pods may hold the TPM at once")
	cmd.Flags().StringVar(&cfg.Device, "device", "tpmrm0", "name of the device under /dev and /sys/class/tpmrm")
	cmd.Flags().StringVar(&cfg.Folder, "folder", "", "folder of the kubelet's sockets; empty for the kubelet's default")
	return cmd
}

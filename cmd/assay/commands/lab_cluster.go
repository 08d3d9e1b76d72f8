package commands

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/lab/cluster"
)

func labClusterCommand() *cobra.Command {
	return group("cluster", "A real Kubernetes cluster on this machine, to try things on (needs root and a checkout)",
		labClusterUpCommand(), labClusterDownCommand(), labClusterKubeconfigCommand(), labClusterBuildCommand(),
		labClusterSuperviseCommand(), labClusterNodeCommand())
}

// clusterFolder adds the flag that says where the cluster lies.
func clusterFolder(c *cobra.Command) func() (string, error) {
	dir := c.Flags().String("dir", "", "the cluster's folder (default: one in the user's cache)")
	return func() (string, error) {
		if *dir == "" {
			return cluster.Folder()
		}
		return filepath.Abs(*dir)
	}
}

func labClusterUpCommand() *cobra.Command {
	var machines, native []string
	var images []string
	c := &cobra.Command{
		Use: "up", Short: "Make a cluster and wait until its nodes are Ready", Args: exactly(0),
	}
	folder := clusterFolder(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		dir, err := folder()
		if err != nil {
			return err
		}
		cfg := cluster.Config{Dir: dir, Images: images, Progress: func(text string) { fmt.Fprintln(c.ErrOrStderr(), cli.Printable(text)) }}
		for _, name := range native {
			cfg.Workers = append(cfg.Workers, cluster.Worker{Name: name, Kind: cluster.Native})
		}
		for _, name := range machines {
			cfg.Workers = append(cfg.Workers, cluster.Worker{Name: name, Kind: cluster.Machine})
		}
		made, err := cluster.Up(c.Context(), cfg)
		if err != nil {
			return err
		}
		if err := made.Detach(); err != nil {
			return err
		}
		fmt.Fprintln(c.OutOrStdout(), "export KUBECONFIG="+made.KubeconfigPath())
		return nil
	}
	c.Flags().StringSliceVar(&machines, "machine", nil, "names of lab machines with IMA and a TPM that join as workers")
	c.Flags().StringSliceVar(&native, "native", nil, "names of further native nodes, without a TPM")
	c.Flags().StringSliceVar(&images, "image", nil, "tar archives with OCI layouts that every node gets")
	return c
}

// attachedCluster wraps a verb on a cluster that `lab cluster up` left running.
func attachedCluster(c *cobra.Command, run func(c *cobra.Command, made *cluster.Cluster) error) *cobra.Command {
	folder := clusterFolder(c)
	c.Args = exactly(0)
	c.RunE = func(c *cobra.Command, _ []string) error {
		dir, err := folder()
		if err != nil {
			return err
		}
		made, err := cluster.Attach(dir)
		if err != nil {
			return err
		}
		return run(c, made)
	}
	return c
}

func labClusterDownCommand() *cobra.Command {
	return attachedCluster(&cobra.Command{Use: "down", Short: "End the cluster and remove everything of it"},
		func(c *cobra.Command, made *cluster.Cluster) error { return made.Down(c.Context()) })
}

func labClusterKubeconfigCommand() *cobra.Command {
	return attachedCluster(&cobra.Command{Use: "kubeconfig", Short: "Print the kubeconfig of a user who may do everything"},
		func(c *cobra.Command, made *cluster.Cluster) error {
			if err := made.Running(c.Context()); err != nil {
				return errors.Join(errors.New("the cluster does not run; take it down and up again"), err)
			}
			text, err := made.Kubeconfig()
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(text)
			return err
		})
}

func labClusterBuildCommand() *cobra.Command {
	return &cobra.Command{
		Use: "build", Short: "Build the programs of a cluster, as up would", Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			return cluster.Build(c.Context(), cluster.BuildConfig{Progress: func(text string) { fmt.Fprintln(c.ErrOrStderr(), cli.Printable(text)) }})
		},
	}
}

func labClusterSuperviseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "supervise FOLDER", Short: "Own a cluster's native nodes; started by lab cluster up", Hidden: true, Args: exactly(1),
		RunE: func(_ *cobra.Command, args []string) error { return cluster.Supervise(args[0]) },
	}
}

func labClusterNodeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "node FOLDER STAGE", Short: "Be the first process of a native node; started by lab cluster supervise", Hidden: true, Args: exactly(2),
		RunE: func(_ *cobra.Command, args []string) error { return cluster.RunNode(args[0], args[1]) },
	}
}

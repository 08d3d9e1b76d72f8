package commands

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/cmd/assay/serve"
	"github.com/assay-project/assay/internal/cli"
)

func serverCommand() *cobra.Command {
	var file string
	var check bool
	var roles []string
	c := &cobra.Command{
		Use: "server", Short: "Run the control plane: registrar and verifier", Args: exactly(0),
		Long: "Runs until SIGTERM or SIGINT, then finishes what is under way. At the first start it makes its certificate authorities and prints\n" +
			"where the first administrator's certificate lies. Each key of the configuration is also read from the environment: ASSAY_STATEDIR,\n" +
			"ASSAY_LISTEN_API and so on; --check-config prints the effective values.",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg := serve.Default()
			if err := cli.LoadConfig(file, &cfg); err != nil {
				return err
			}
			if len(roles) > 0 {
				cfg.Roles = roles
				if err := cfg.Check(); err != nil {
					return cli.Usage(err)
				}
			}
			if check {
				return cli.PrintConfig(c, &cfg)
			}
			err := serve.Run(c.Context(), serve.Options{Config: cfg, Version: cli.Version(), Out: c.OutOrStdout(), Log: c.ErrOrStderr()})
			if errors.Is(err, serve.ErrState) {
				return &cli.ExitCode{Code: cli.ExitState, Err: err}
			}
			return err
		},
	}
	// The server is nobody's client: its own flag takes the place of the one that names the file of `assay login`.
	c.Flags().StringVar(&file, "config", "", "configuration file (YAML); without one the defaults and the environment hold")
	c.Flags().BoolVar(&check, "check-config", false, "print the effective configuration, or every mistake in it, and exit")
	c.Flags().StringSliceVar(&roles, "roles", nil, "what to run, instead of the configuration's roles")
	return c
}

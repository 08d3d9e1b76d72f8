// Command assay-agent attests the machine that it runs on: it registers the TPM's keys, answers the verifier's requests for quotes and
// reports to the server. docs/agent.md says which rights it needs and until when.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/agent"
	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/cli"
)

const defaultConfig = "/etc/assay/agent.yaml"

// Exit codes beyond those of internal/cli.
const (
	exitRefused   = 3 // the registrar refuses this machine; a person has to act
	exitPreflight = 4 // a check of the preflight fails
)

func main() { cli.Main(root()) }

func root() *cobra.Command {
	var path string
	var check bool
	cmd := &cobra.Command{
		Use:   "assay-agent",
		Short: "Attest this machine with its TPM",
		Long: `Attest this machine with its TPM: register its keys, answer the verifier, report to the server.

Started as root, it opens the TPM and the kernel's logs and becomes the user of its configuration.
Every key of the configuration can be set by a variable: listen by ASSAY_LISTEN.

Exit codes: 0 ended by a signal, 1 error, 2 wrong command line or configuration,
3 the registrar refuses this machine, 4 a check of the preflight fails.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config := agent.DefaultConfig()
			if err := load(path, &config); err != nil {
				return err
			}
			if !check {
				return run(cmd.Context(), config)
			}
			return cli.PrintConfig(cmd, config)
		},
	}
	cmd.PersistentFlags().StringVarP(&path, "config", "c", "", "configuration file; without it "+defaultConfig+", if it is there")
	cmd.Flags().BoolVar(&check, "check-config", false, "print the effective configuration and every mistake in it, and exit")
	cmd.AddCommand(preflight(&path), cli.VersionCommand())
	return cmd
}

// load reads the configuration into target, which holds the defaults. A missing file is a mistake only when it was named.
func load(path string, target any) error {
	if path == "" {
		if _, err := os.Stat(defaultConfig); !errors.Is(err, fs.ErrNotExist) {
			path = defaultConfig
		}
	}
	return cli.LoadConfig(path, target)
}

// unchecked is a configuration that is read and not checked: a machine can be looked at before it has a server.
type unchecked agent.Config

func run(ctx context.Context, config agent.Config) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	a, err := agent.New(config, agent.Environment{Version: cli.Version(), Log: log})
	if err != nil {
		return err
	}
	if err := a.DropRights(); err != nil {
		return errors.Join(err, a.Close())
	}
	err = a.Run(ctx)
	if errors.Is(err, agent.ErrRefused) {
		return &cli.ExitCode{Code: exitRefused, Err: err}
	}
	return err
}

func preflight(path *string) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "preflight",
		Short: "Say what of this machine can be attested, and what to do about the rest",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return cli.Usage(fmt.Errorf("--output %q is not table or json", output))
			}
			config := unchecked(agent.DefaultConfig())
			if err := load(*path, &config); err != nil {
				return err
			}
			checks := agent.Preflight(agent.Config(config))
			if err := show(cmd, checks, output); err != nil {
				return err
			}
			if !agent.Works(checks) {
				return &cli.ExitCode{Code: exitPreflight}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func show(cmd *cobra.Command, checks []api.PreflightCheck, output string) error {
	if output == "json" {
		encoder := json.NewEncoder(cmd.OutOrStdout())
		encoder.SetIndent("", "  ")
		return encoder.Encode(api.Preflight{Checks: checks})
	}
	table := cli.NewTable("CHECK", "STATUS", "DETAIL")
	for _, check := range checks {
		table.Row(check.Name, string(check.Status), check.Detail)
		if check.Remedy != "" {
			table.Row("", "", "-> "+check.Remedy)
		}
	}
	return table.Print(cmd.OutOrStdout())
}

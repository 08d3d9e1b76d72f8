package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/conf"
)

// Main runs a program with the arguments of its process and exits with its code. SIGTERM and SIGINT end the context of its commands.
func Main(root *cobra.Command) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	code := Execute(ctx, root, os.Args[1:], os.Stderr)
	stop()
	os.Exit(code)
}

// LoadConfig reads a program's configuration into target, which holds the defaults: the file at path, "" for none, and over it the
// environment. Mistakes are the caller's: exit code ExitUsage.
func LoadConfig(path string, target any) error {
	if err := conf.Load(conf.Source{Path: path, Environ: os.Environ()}, target); err != nil {
		return Usage(err)
	}
	return nil
}

// PrintConfig writes the effective configuration as YAML to the command's output: what --check-config asks for.
func PrintConfig(cmd *cobra.Command, config any) error {
	text, err := conf.Format(config)
	if err != nil {
		return err
	}
	_, err = cmd.OutOrStdout().Write(text)
	return err
}

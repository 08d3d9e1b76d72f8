// Package commands holds the commands of the assay program. They parse, ask the native API and print; judgement is the server's.
package commands

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
)

// Exit codes of the program beyond those of internal/cli: `node show --exit-code` and `evidence verify` tell the verdict by them.
const (
	ExitFailed     = 3 // the verdict is Failed; also: a thing that is needed is missing
	ExitNotTrusted = 4 // the verdict is none of Trusted and Failed
)

const exitCodesHelp = `Exit codes: 0 done; 1 could not be done; 2 wrong command line or configuration; 3 the verdict is Failed (node show --exit-code, evidence verify),
or something that the command needs is missing (demo, lab); 4 the verdict is neither Trusted nor Failed (node show --exit-code, evidence verify);
5 the state directory or the database cannot be opened (server).`

// Root returns the whole program.
func Root() *cobra.Command {
	root := &cobra.Command{
		Use: "assay", Short: "Integrity attestation for machines and Kubernetes, anchored in their TPMs",
		Long:    "assay asks machines for proof of what they booted and run, and tells which of them are still yours.\n\n" + exitCodesHelp,
		Version: cli.Version(),
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().String("config", "", "the file that `assay login` writes (default $ASSAYCONFIG or ~/.config/assay/config.yaml)")
	root.AddCommand(cli.VersionCommand(), serverCommand(), loginCommand(), nodeCommand(), reactionsCommand(), policyCommand(), evidenceCommand(), endorsementCommand(), tokenCommand(), certCommand(), labCommand(), demoCommand())
	return root
}

// group returns a noun that only holds verbs; without a verb it is a usage error.
func group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, RunE: func(c *cobra.Command, args []string) error {
		names := make([]string, 0, len(verbs))
		for _, v := range verbs {
			names = append(names, v.Name())
		}
		if len(args) == 0 {
			return cli.Usage(fmt.Errorf("%s needs a verb: %s", c.CommandPath(), strings.Join(names, ", ")))
		}
		near, ok := cli.Nearest(args[0], names)
		if !ok {
			return cli.Usage(fmt.Errorf("unknown verb %q for %s: want %s", args[0], c.CommandPath(), strings.Join(names, ", ")))
		}
		return cli.Usage(fmt.Errorf("unknown verb %q for %s (did you mean %s?)", args[0], c.CommandPath(), near))
	}}
	c.AddCommand(verbs...)
	return c
}

// exactly wants n arguments, named in the usage line.
func exactly(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return cli.Usage(fmt.Errorf("%s takes %d argument(s), not %d: usage: %s", c.CommandPath(), n, len(args), c.UseLine()))
		}
		return nil
	}
}

// withOutput gives a command the flag -o.
func withOutput(c *cobra.Command) *cobra.Command {
	c.Flags().StringP("output", "o", "table", "table or json")
	return c
}

var errOutput = errors.New("output is table or json")

// printAs prints v as JSON, or calls table.
func printAs(c *cobra.Command, v any, table func(w io.Writer) error) error {
	kind, err := c.Flags().GetString("output")
	if err != nil {
		return err
	}
	switch kind {
	case "table":
		return table(c.OutOrStdout())
	case "json":
		encoder := json.NewEncoder(c.OutOrStdout())
		encoder.SetIndent("", "  ")
		return encoder.Encode(v)
	}
	return cli.Usage(fmt.Errorf("%w, not %q", errOutput, kind))
}

// when prints a time for people: local, to the second, or "-".
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// short cuts a long hexadecimal id for tables.
func short(text string) string {
	if len(text) > 16 {
		return text[:16]
	}
	return text
}

package commands

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
)

func policyCommand() *cobra.Command {
	return group("policy", "Policy documents: make them from a machine, keep them on the server",
		policyCreateCommand(), policyAddCommand(), policyListCommand(), policyShowCommand(), policyRemoveCommand())
}

func policyAddCommand() *cobra.Command {
	var keylime string
	c := withOutput(&cobra.Command{
		Use: "add FILE", Short: "Store a document; it changes no verdict until a machine has it assigned", Args: exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := readInput(c, args[0])
			if err != nil {
				return err
			}
			server, err := connect(c)
			if err != nil {
				return err
			}
			p, err := server.AddPolicy(c.Context(), text, keylime)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			for _, warning := range p.Warnings {
				fmt.Fprintf(c.ErrOrStderr(), "warning: %s\n", cli.Printable(warning))
			}
			return printAs(c, p, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "added %s %s (%s)\n", p.Kind, cli.Printable(p.Name), p.Digest)
				return err
			})
		},
	})
	c.Flags().StringVar(&keylime, "keylime", "", "import Keylime's runtime policy JSON under this name")
	return c
}

// readInput reads a file, or standard input for "-".
func readInput(c *cobra.Command, name string) ([]byte, error) {
	if name == "-" {
		text, err := io.ReadAll(c.InOrStdin())
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		return text, nil
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, cli.Usage(err)
	}
	return text, err
}

func policyListCommand() *cobra.Command {
	return withOutput(&cobra.Command{
		Use: "list", Short: "List the stored documents", Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			server, err := connect(c)
			if err != nil {
				return err
			}
			policies, err := server.Policies(c.Context())
			if err != nil {
				return err
			}
			return printAs(c, policies, func(w io.Writer) error {
				table := cli.NewTable("KIND", "NAME", "DIGEST", "BYTES", "ADDED")
				for _, p := range policies {
					table.Row(p.Kind, p.Name, p.Digest.String(), fmt.Sprint(p.Size), when(p.Added))
				}
				return table.Print(w)
			})
		},
	})
}

func policyShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME|DIGEST", Short: "Print a stored document, byte for byte", Args: exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			server, err := connect(c)
			if err != nil {
				return err
			}
			text, err := server.Policy(c.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(text)
			return err
		},
	}
}

func policyRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME|DIGEST", Short: "Delete a document that no machine has assigned", Args: exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			server, err := connect(c)
			if err != nil {
				return err
			}
			if err := server.RemovePolicy(c.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "removed %s\n", cli.Printable(args[0]))
			return nil
		},
	}
}

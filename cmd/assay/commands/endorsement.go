package commands

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
)

func endorsementCommand() *cobra.Command {
	return group("endorsement", "Certificates that vouch for TPMs",
		endorsementAddCommand(), endorsementListCommand(), endorsementCheckCommand(), endorsementRemoveCommand())
}

func endorsementAddCommand() *cobra.Command {
	var emulated bool
	c := withOutput(&cobra.Command{
		Use: "add FILE", Short: "Accept the vendor roots and intermediates of a PEM file", Args: exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read certificates: %w", err)
			}
			server, err := connect(c)
			if err != nil {
				return err
			}
			add := server.AddRoots
			if emulated {
				add = server.AddEmulatedRoots
			}
			added, err := add(c.Context(), text)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return printAs(c, added, func(w io.Writer) error {
				for _, r := range added.Added {
					fmt.Fprintf(w, "added %s (%s)\n", cli.Printable(r.Subject), r.Fingerprint)
				}
				return nil
			})
		},
	})
	c.Flags().BoolVar(&emulated, "emulated", false, "they endorse TPM emulators: what they vouch for passes only where an assignment names them")
	return c
}

func endorsementListCommand() *cobra.Command {
	return withOutput(&cobra.Command{
		Use: "list", Short: "List the accepted vendor certificates", Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			server, err := connect(c)
			if err != nil {
				return err
			}
			roots, err := server.Roots(c.Context())
			if err != nil {
				return err
			}
			return printAs(c, roots, func(w io.Writer) error {
				table := cli.NewTable("FINGERPRINT", "SUBJECT", "NOT AFTER", "EMULATED", "ORIGIN")
				for _, r := range roots {
					table.Row(r.Fingerprint.String(), r.Subject, when(r.NotAfter), yes(r.Emulated), r.Origin)
				}
				return table.Print(w)
			})
		},
	})
}

func endorsementCheckCommand() *cobra.Command {
	return withOutput(&cobra.Command{
		Use: "check ID", Short: "Say whether a registered agent's EK leads to an accepted root", Args: exactly(1),
		Long: "Exits with 0 when the EK is endorsed and with 3 when it is not.",
		RunE: func(c *cobra.Command, args []string) error {
			server, err := connect(c)
			if err != nil {
				return err
			}
			check, err := server.CheckEndorsement(c.Context(), attest.AgentID(args[0]))
			if err != nil {
				return err
			}
			err = printAs(c, check, func(w io.Writer) error {
				if check.Endorsed {
					fmt.Fprintf(w, "endorsed by %s\n", cli.Printable(check.EndorsedBy))
				}
				if check.Emulated {
					fmt.Fprintln(w, "EMULATED: that root endorses emulators; an assignment has to name it")
				}
				for _, f := range check.Failures {
					fmt.Fprintf(w, "%s: %s\n", f.ID, cli.Printable(f.Detail))
				}
				return nil
			})
			if err == nil && !check.Endorsed {
				return &cli.ExitCode{Code: ExitFailed}
			}
			return err
		},
	})
}

func endorsementRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove FINGERPRINT", Short: "Accept a vendor certificate no longer; enrolled machines stay enrolled", Args: exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			fingerprint, err := attest.ParseDigest(args[0])
			if err != nil {
				return cli.Usage(err)
			}
			server, err := connect(c)
			if err != nil {
				return err
			}
			if err := server.RemoveRoot(c.Context(), fingerprint); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "removed %s\n", fingerprint)
			return nil
		},
	}
}

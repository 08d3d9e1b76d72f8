package commands

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/cli"
)

func tokenCommand() *cobra.Command {
	return group("token", "Join tokens: a CA pin with a one-time secret for one agent",
		tokenCreateCommand(), tokenListCommand(), tokenRevokeCommand())
}

func tokenCreateCommand() *cobra.Command {
	var lifetime time.Duration
	c := withOutput(&cobra.Command{
		Use: "create", Short: "Make a join token and print it, this once", Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			server, err := connect(c)
			if err != nil {
				return err
			}
			t, err := server.CreateToken(c.Context(), api.TokenRequest{Lifetime: lifetime.Seconds()})
			if err != nil {
				return err
			}
			return printAs(c, t, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, t.Text)
				return err
			})
		},
	})
	c.Flags().DurationVar(&lifetime, "lifetime", 24*time.Hour, "how long the token may wait for its use")
	return c
}

func tokenListCommand() *cobra.Command {
	return withOutput(&cobra.Command{
		Use: "list", Short: "List join tokens; their secrets are not kept", Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			server, err := connect(c)
			if err != nil {
				return err
			}
			tokens, err := server.Tokens(c.Context())
			if err != nil {
				return err
			}
			return printAs(c, tokens, func(w io.Writer) error {
				table := cli.NewTable("TOKEN", "CREATED", "EXPIRES", "USED BY")
				for _, t := range tokens {
					by := string(t.Agent)
					if by == "" {
						by = "-"
					}
					table.Row(t.ID, when(t.Created), when(t.Expires), by)
				}
				return table.Print(w)
			})
		},
	})
}

func tokenRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "revoke TOKEN", Short: "Make a join token useless", Args: exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			server, err := connect(c)
			if err != nil {
				return err
			}
			if err := server.RevokeToken(c.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "revoked %s\n", cli.Printable(args[0]))
			return nil
		},
	}
}

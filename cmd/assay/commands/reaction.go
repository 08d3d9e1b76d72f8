package commands

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/cli"
)

func reactionsCommand() *cobra.Command {
	return group("reactions", "What is done to nodes of a cluster that fail: look, suspend, resume",
		reactionsListCommand(),
		suspensionCommand("suspend", "Stop all reactions; what was done is still undone when trust returns"),
		suspensionCommand("resume", "Let reactions go on"))
}

func reactionsListCommand() *cobra.Command {
	var state string
	c := withOutput(&cobra.Command{
		Use: "list", Short: "List the open reactions, oldest first", Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			server, err := connect(c)
			if err != nil {
				return err
			}
			if state == "all" {
				state = ""
			}
			suspension, err := server.Suspension(c.Context())
			if err != nil {
				return err
			}
			reactions, err := server.Reactions(c.Context(), state)
			if err != nil {
				return err
			}
			return printAs(c, reactions, func(w io.Writer) error {
				describeSuspension(w, suspension)
				table := cli.NewTable("ID", "NODE", "KUBERNETES NODE", "STATE", "KINDS", "CAUSE", "OWNER", "CHANGED", "DETAIL")
				for _, r := range reactions {
					table.Row(fmt.Sprint(r.ID), short(string(r.Node)), nodeName(r.Identity), reactionState(r), kindNames(r.Kinds), string(r.Cause), r.Owner, when(r.Changed), r.Detail)
				}
				return table.Print(w)
			})
		},
	})
	c.Flags().StringVar(&state, "state", api.ReactionStateOpen, "open, all, or one state such as Applied")
	return c
}

func nodeName(n *api.KubernetesNode) string {
	if n == nil {
		return "-"
	}
	return n.Name
}

func reactionState(r api.Reaction) string {
	state := string(r.State)
	if r.State == api.ReactionClaimed && r.Lifting {
		state += " to lift"
	}
	if r.DryRun {
		state += " (dry run)"
	}
	return state
}

func kindNames(kinds []api.ReactionKind) string {
	names := make([]string, 0, len(kinds))
	for _, k := range kinds {
		names = append(names, string(k))
	}
	return strings.Join(names, ",")
}

func describeSuspension(w io.Writer, s api.Suspension) {
	if s.Suspended {
		fmt.Fprintln(w, cli.Printable(fmt.Sprintf("Reactions are suspended by %s since %s: %s", s.By, when(s.At), s.Reason)))
	}
}

func suspensionCommand(verb, text string) *cobra.Command {
	var s api.Suspension
	c := withOutput(&cobra.Command{
		Use: verb, Short: text, Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			if s.Suspended = verb == "suspend"; s.Suspended && strings.TrimSpace(s.Reason) == "" {
				return cli.Usage(fmt.Errorf("%s needs --reason: whoever finds reactions suspended needs to know why", c.CommandPath()))
			}
			server, err := connect(c)
			if err != nil {
				return err
			}
			now, err := server.Suspend(c.Context(), s)
			if err != nil {
				return err
			}
			return printAs(c, now, func(w io.Writer) error {
				if describeSuspension(w, now); !now.Suspended {
					fmt.Fprintln(w, "Reactions go on.")
				}
				return nil
			})
		},
	})
	c.Flags().StringVar(&s.Reason, "reason", "", "why, for whoever finds it")
	return c
}

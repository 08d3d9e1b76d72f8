package commands

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/client"
	"github.com/assay-project/assay/internal/cli"
)

func nodeCommand() *cobra.Command {
	return group("node", "Machines: enrol, look at, pause, judge again, remove",
		enrolCommand(), setCommand(), approveCommand(), nodeListCommand(), nodeShowCommand(), historyCommand(), nodeRemoveCommand(),
		actCommand("reattest", "Judge everything of this boot again, from the start of the list"),
		actCommand("pause", "Stop asking a machine for evidence"),
		actCommand("resume", "Go on asking a machine for evidence"),
		watchCommand())
}

// nodeID accepts a node's id, or the beginning of it when that is unique among the enrolled nodes.
func nodeID(c *cobra.Command, server *client.Client, text string) (attest.AgentID, error) {
	id, err := attest.ParseAgentID(text)
	if err != nil {
		return "", cli.Usage(err)
	}
	if _, err := server.Node(c.Context(), id); err == nil || !client.NotFound(err) {
		return id, err
	}
	nodes, err := server.Nodes(c.Context())
	if err != nil {
		return "", err
	}
	var found []attest.AgentID
	for _, n := range nodes {
		if strings.HasPrefix(string(n.ID), text) {
			found = append(found, n.ID)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("no node is named %s", text)
	}
	return "", fmt.Errorf("%d nodes begin with %s: give more of the id", len(found), text)
}

// onNode wraps a verb that works on one node.
func onNode(run func(c *cobra.Command, server *client.Client, id attest.AgentID) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		server, err := connect(c)
		if err != nil {
			return err
		}
		id, err := nodeID(c, server, args[0])
		if err != nil {
			return err
		}
		return run(c, server, id)
	}
}

func enrolCommand() *cobra.Command {
	var request api.EnrolRequest
	var interval time.Duration
	c := withOutput(&cobra.Command{
		Use: "enrol ID", Short: "Enrol a registered agent", Args: exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			server, err := connect(c)
			if err != nil {
				return err
			}
			request.ID, request.Interval = attest.AgentID(args[0]), interval.Seconds()
			n, err := server.Enrol(c.Context(), request)
			if err != nil {
				return err
			}
			return printAs(c, n, func(w io.Writer) error { return describe(w, n) })
		},
	})
	c.Flags().StringSliceVar(&request.Policies, "policy", nil, "policy documents by name or digest (repeatable)")
	c.Flags().DurationVar(&interval, "interval", 0, "time between rounds, 1s at the least (default: the server's)")
	c.Flags().BoolVar(&request.FirstUse, "first-use", false, "accept an EK that no vendor root endorses, where the server allows it")
	c.Flags().StringVar(&request.Address, "address", "", "where the agent answers, instead of what it registered")
	c.Flags().IntVar(&request.Port, "port", 0, "its port, instead of what it registered")
	return c
}

func setCommand() *cobra.Command {
	var policies []string
	var interval time.Duration
	var t terms
	c := withOutput(&cobra.Command{Use: "set ID", Short: "Change a machine's policies, interval or terms", Args: exactly(1)})
	c.RunE = onNode(func(c *cobra.Command, server *client.Client, id attest.AgentID) error {
		var u api.NodeUpdate
		if c.Flags().Changed("policy") {
			u.Policies = &policies
		}
		if c.Flags().Changed("interval") {
			s := interval.Seconds()
			u.Interval = &s
		}
		var err error
		if u.Assignment, err = t.change(c, server, id); err != nil {
			return err
		}
		n, err := server.UpdateNode(c.Context(), id, u)
		if err != nil {
			return err
		}
		return printAs(c, n, func(w io.Writer) error { return describe(w, n) })
	})
	c.Flags().StringSliceVar(&policies, "policy", nil, "all policy documents that apply from now on, by name or digest; an empty one for none")
	c.Flags().DurationVar(&interval, "interval", 0, "time between rounds, 1s at the least; 0 for the server's")
	t.flags(c)
	return c
}

func approveCommand() *cobra.Command {
	return withOutput(&cobra.Command{
		Use: "approve [ID]", Short: "Let a pending registration in, or a failed machine back; without an ID list the registrations", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			server, err := connect(c)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if waits, err := readmits(c, server, attest.AgentID(args[0])); err != nil {
					return err
				} else if waits {
					n, err := server.Act(c.Context(), attest.AgentID(args[0]), "approve")
					if err != nil {
						return err
					}
					return printAs(c, n, func(w io.Writer) error { return describe(w, n) })
				}
				if err := server.Approve(c.Context(), attest.AgentID(args[0])); err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "approved %s\n", cli.Printable(args[0]))
				return nil
			}
			pending, err := server.Pending(c.Context())
			if err != nil {
				return err
			}
			return printAs(c, pending, func(w io.Writer) error {
				table := cli.NewTable("AGENT", "EK", "ENDORSED", "SINCE", "REASON")
				for _, p := range pending {
					table.Row(string(p.Agent), short(string(p.EK)), yes(p.Endorsed), when(p.At), p.Reason)
				}
				return table.Print(w)
			})
		},
	})
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func nodeListCommand() *cobra.Command {
	var registered bool
	c := withOutput(&cobra.Command{
		Use: "list", Short: "List the enrolled machines with their verdicts", Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			server, err := connect(c)
			if err != nil {
				return err
			}
			if registered {
				return listRegistered(c, server)
			}
			nodes, err := server.Nodes(c.Context())
			if err != nil {
				return err
			}
			return printAs(c, nodes, func(w io.Writer) error {
				table := cli.NewTable("NODE", "VERDICT", "SINCE", "TPM", "POLICIES", "LAST ACCEPTED", "REASON")
				for _, n := range nodes {
					table.Row(string(n.ID), verdictOf(n), when(n.Since), yes(n.TpmPresent), refNames(n.Assigned), when(n.LastAccepted), reason(n))
				}
				return table.Print(w)
			})
		},
	})
	c.Flags().BoolVar(&registered, "registered", false, "list the agents that registered, enrolled or not")
	return c
}

func listRegistered(c *cobra.Command, server *client.Client) error {
	agents, err := server.Registered(c.Context())
	if err != nil {
		return err
	}
	return printAs(c, agents, func(w io.Writer) error {
		table := cli.NewTable("AGENT", "ENROLLED")
		for _, a := range agents {
			table.Row(string(a.Agent), yes(a.Enrolled))
		}
		return table.Print(w)
	})
}

func refNames(refs []attest.PolicyRef) string {
	names := make([]string, 0, len(refs))
	for _, r := range refs {
		names = append(names, r.Name)
	}
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, ",")
}

// verdictOf marks the verdict on a machine whose TPM is no hardware.
func verdictOf(n api.Node) string {
	if n.Emulated {
		return string(n.Verdict) + " (emulated)"
	}
	return string(n.Verdict)
}

func reason(n api.Node) string {
	switch {
	case len(n.Failures) > 0:
		return string(n.Failures[0].ID)
	case n.Trouble != nil:
		return string(n.Trouble.ID)
	case n.Reason != "":
		return n.Reason
	}
	return "-"
}

func nodeShowCommand() *cobra.Command {
	var tell bool
	c := withOutput(&cobra.Command{Use: "show ID", Short: "Show a machine's verdict, boot, list position, rounds and failures", Args: exactly(1)})
	c.RunE = onNode(func(c *cobra.Command, server *client.Client, id attest.AgentID) error {
		n, err := server.Node(c.Context(), id)
		if err != nil {
			return err
		}
		if err := printAs(c, n, func(w io.Writer) error { return describe(w, n) }); err != nil {
			return err
		}
		switch {
		case !tell || n.Verdict == attest.Trusted:
			return nil
		case n.Verdict == attest.Failed:
			return &cli.ExitCode{Code: ExitFailed}
		}
		return &cli.ExitCode{Code: ExitNotTrusted}
	})
	c.Flags().BoolVar(&tell, "exit-code", false, "exit with 3 for Failed and 4 for every other verdict but Trusted")
	return c
}

// describe prints a node for people.
func describe(w io.Writer, n api.Node) error {
	line := func(name, format string, values ...any) {
		fmt.Fprintf(w, "%-14s %s\n", name+":", cli.Printable(fmt.Sprintf(format, values...)))
	}
	line("Node", "%s", n.ID)
	line("Verdict", "%s since %s", verdictOf(n), when(n.Since))
	if n.KubernetesNode != nil {
		line("Kubernetes", "node %s, UID %s", n.KubernetesNode.Name, n.KubernetesNode.UID)
	}
	if !n.TpmPresent {
		line("TPM", "none (%s): nothing of this machine is proven", n.Reason)
		describeReport(line, n.Heartbeat)
		return nil
	}
	endorsed := "endorsed by " + n.EndorsedBy
	if n.Endorsement == "Listed" {
		endorsed = "Listed: a person vouches for its EK, no vendor"
	}
	if n.FirstUse {
		endorsed = "FirstUse: no vendor vouches for its EK"
	}
	if n.Emulated {
		endorsed += " (EMULATED: this TPM is no hardware)"
	}
	line("Identity", "%s; enrolled %s", endorsed, when(n.Enrolled))
	line("Agent", "%s port %d, every %v", n.Address, n.Port, time.Duration(n.Interval*float64(time.Second)))
	line("Policies", "%s", refNames(n.Assigned))
	describeAssignment(line, n)
	if n.Boot != "" {
		line("Boot", "%s since %s", n.Boot, when(n.BootSince))
	}
	line("List", "%d entries proven, %d pending", n.Position, n.Pending)
	line("Rounds", "%d accepted, %d refused, last accepted %s", n.Accepted, n.Refused, when(n.LastAccepted))
	if n.Trouble != nil {
		line("Last round", "%s: %s", n.Trouble.ID, n.Trouble.Detail)
	}
	if n.Registration != "" {
		line("Registration", "waits for a person: %s; let it in with `assay node approve %s`", n.Registration, n.ID)
	}
	describeReport(line, n.Heartbeat)
	for _, f := range n.Failures {
		describeFailure(line, f)
	}
	return nil
}

// describeReport prints what an agent says of itself.
func describeReport(line func(name, format string, values ...any), r *api.AgentReport) {
	if r == nil {
		return
	}
	line("Agent says", "version %s, kernel %s, at %s (not proven)", r.Heartbeat.Version, r.Heartbeat.Kernel, when(r.At))
	for _, check := range r.Preflight {
		if check.Status != api.PreflightOK {
			line("Preflight", "%s is %s: %s %s", check.Name, check.Status, check.Detail, check.Remedy)
		}
	}
}

func describeFailure(line func(name, format string, values ...any), f attest.Failure) {
	line("Failure", "%s (%s): %s", f.ID, f.Severity, f.Detail)
	if f.Path != "" {
		line("  path", "%s", f.Path)
	}
	if f.Seen != "" {
		line("  seen", "%s", f.Seen)
	}
	for _, allowed := range f.Allowed {
		line("  allowed", "%s", allowed)
	}
	if f.Policy != "" {
		line("  policy", "%s", f.Policy)
	}
	if f.Entry != nil {
		line("  entry", "%d of the measurement list", *f.Entry)
	}
	line("  remedy", "%s", f.ID.Info().Remedy)
}

func nodeRemoveCommand() *cobra.Command {
	c := &cobra.Command{Use: "remove ID", Short: "Forget a machine and its evidence", Args: exactly(1)}
	c.RunE = onNode(func(c *cobra.Command, server *client.Client, id attest.AgentID) error {
		if err := server.RemoveNode(c.Context(), id); err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "removed %s\n", id)
		return nil
	})
	return c
}

func actCommand(act, text string) *cobra.Command {
	c := withOutput(&cobra.Command{Use: act + " ID", Short: text, Args: exactly(1)})
	c.RunE = onNode(func(c *cobra.Command, server *client.Client, id attest.AgentID) error {
		n, err := server.Act(c.Context(), id, act)
		if err != nil {
			return err
		}
		return printAs(c, n, func(w io.Writer) error { return describe(w, n) })
	})
	return c
}

func watchCommand() *cobra.Command {
	return withOutput(&cobra.Command{
		Use: "watch", Short: "Print every change of a verdict as it happens, until interrupted", Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			server, err := connect(c)
			if err != nil {
				return err
			}
			err = server.Watch(c.Context(), nil, func(t api.Transition) error {
				return printAs(c, t, func(w io.Writer) error {
					_, err := fmt.Fprintln(w, cli.Printable(transitionLine(t)))
					return err
				})
			})
			if c.Context().Err() != nil {
				return nil // interrupted, as announced
			}
			return err
		},
	})
}

func historyCommand() *cobra.Command {
	c := withOutput(&cobra.Command{Use: "history ID", Short: "Print every change of a machine's verdict, oldest first", Args: exactly(1)})
	c.RunE = onNode(func(c *cobra.Command, server *client.Client, id attest.AgentID) error {
		results, err := server.Results(c.Context(), id)
		if err != nil {
			return err
		}
		return printAs(c, results, func(w io.Writer) error {
			for _, t := range results {
				fmt.Fprintln(w, cli.Printable(transitionLine(t)))
			}
			return nil
		})
	})
	return c
}

func transitionLine(t api.Transition) string {
	text := fmt.Sprintf("%s  %s  %s -> %s (%s)", when(t.At), short(string(t.Node)), t.From, t.To, t.Cause)
	if t.Detail != "" {
		text += "  " + t.Detail
	}
	for _, f := range t.Failures {
		text += fmt.Sprintf("  %s %s", f.ID, f.Path)
	}
	return text
}

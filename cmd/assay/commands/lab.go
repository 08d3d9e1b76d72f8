package commands

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/deploy/ima"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/guest"
)

func labCommand() *cobra.Command {
	return group("lab", "Machines with a real kernel and an emulated TPM, to try things on",
		labUpCommand(), labDownCommand(), labExecCommand(), labListCommand(), labSuperviseCommand(), labClusterCommand())
}

// machineFolder takes a machine's name, or the path of a folder such as that of `demo --keep`.
func machineFolder(text string) (string, error) {
	if filepath.IsAbs(text) {
		return text, nil
	}
	dir, err := lab.Folder(text)
	if err != nil {
		return "", cli.Usage(err)
	}
	return dir, nil
}

func labUpCommand() *cobra.Command {
	var cfg lab.Config
	var firmware string
	var forward []int
	c := &cobra.Command{
		Use: "up NAME", Short: "Make a machine and wait until it answers", Args: exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := machineFolder(args[0])
			if err != nil {
				return err
			}
			cfg.Dir, cfg.Firmware, cfg.IMAPolicy = dir, lab.Firmware(firmware), ima.HostPolicy()
			cfg.Progress = func(text string) { fmt.Fprintln(c.ErrOrStderr(), cli.Printable(text)) }
			for _, port := range forward {
				cfg.Forward = append(cfg.Forward, lab.Port{Guest: port})
			}
			m, err := lab.Up(c.Context(), cfg)
			if err != nil {
				return err
			}
			if err := m.Detach(); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is up; assay lab exec %s -- COMMAND runs something in it\n", args[0], args[0])
			return nil
		},
	}
	c.Flags().StringVar(&firmware, "firmware", string(lab.SeaBIOS), "seabios, or ovmf for measured boot")
	c.Flags().IntVar(&cfg.MemoryMiB, "memory", 0, "memory in MiB (default 1024)")
	c.Flags().StringVar(&cfg.Tree, "tree", "", "folder to copy to the machine's root")
	c.Flags().IntSliceVar(&forward, "forward", nil, "the machine's ports to reach from this machine's loopback")
	return c
}

// attached wraps a verb on a machine that `lab up` left running.
func attached(run func(c *cobra.Command, m *lab.Machine, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		dir, err := machineFolder(args[0])
		if err != nil {
			return err
		}
		m, err := lab.Attach(dir)
		if err != nil {
			return err
		}
		return run(c, m, args[1:])
	}
}

func labDownCommand() *cobra.Command {
	return &cobra.Command{
		Use: "down NAME", Short: "End a machine and remove everything of it", Args: exactly(1),
		RunE: attached(func(c *cobra.Command, m *lab.Machine, _ []string) error { return m.Down(c.Context()) }),
	}
}

func labExecCommand() *cobra.Command {
	return &cobra.Command{
		Use: "exec NAME -- COMMAND...", Short: "Run a command in a machine, with its exit code", Args: cobra.MinimumNArgs(2),
		RunE: attached(func(c *cobra.Command, m *lab.Machine, args []string) error {
			code, err := m.Exec(c.Context(), guest.Command{Args: args, Stdin: c.InOrStdin(), Stdout: c.OutOrStdout(), Stderr: c.ErrOrStderr()})
			if err == nil && code != 0 {
				return &cli.ExitCode{Code: code}
			}
			return err
		}),
	}
}

func labListCommand() *cobra.Command {
	return withOutput(&cobra.Command{
		Use: "list", Short: "List the machines", Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			base, err := lab.Folder("")
			if err != nil {
				return err
			}
			machines, err := lab.List(base)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			type row struct {
				Name     string     `json:"name"`
				Running  bool       `json:"running"`
				Firmware string     `json:"firmware"`
				Kernel   string     `json:"kernel"`
				Forward  []lab.Port `json:"forward"`
			}
			rows := []row{}
			for _, m := range machines {
				running, _ := m.Running(c.Context())
				rows = append(rows, row{m.Name(), running, string(m.Firmware()), m.KernelRelease(), m.Forward()})
			}
			return printAs(c, rows, func(w io.Writer) error {
				table := cli.NewTable("NAME", "RUNNING", "FIRMWARE", "KERNEL")
				for _, r := range rows {
					table.Row(r.Name, yes(r.Running), r.Firmware, r.Kernel)
				}
				return table.Print(w)
			})
		},
	})
}

func labSuperviseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "supervise FOLDER", Short: "Own a machine's processes; started by lab up", Hidden: true, Args: exactly(1),
		RunE: func(_ *cobra.Command, args []string) error { return lab.Supervise(args[0]) },
	}
}

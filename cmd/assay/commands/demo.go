package commands

import (
	"github.com/spf13/cobra"

	"github.com/assay-project/assay/cmd/assay/demo"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/lab"
)

func demoCommand() *cobra.Command {
	var options demo.Options
	c := &cobra.Command{
		Use: "demo", Short: "The whole story on this machine: attest, tamper, catch, restore, reboot", Args: exactly(0),
		Long: "Starts a server on loopback and one lab machine with measured boot, and exits with 0 only if all of the story happened.",
		RunE: func(c *cobra.Command, _ []string) error {
			if missing := lab.Missing(lab.OVMF); len(missing) > 0 {
				return &cli.ExitCode{Code: ExitFailed, Err: demo.MissingError(missing)}
			}
			options.Out = c.OutOrStdout()
			return demo.Run(c.Context(), options)
		},
	}
	c.Flags().BoolVar(&options.Keep, "keep", false, "leave server and machine running, and say how to use and end them")
	c.Flags().BoolVar(&options.LeaveUntampered, "leave-untampered", false, "do not tamper: the story then fails, as it must")
	if err := c.Flags().MarkHidden("leave-untampered"); err != nil {
		panic(err) // the flag stands one line above
	}
	return c
}

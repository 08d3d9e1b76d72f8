// Command assay is the control plane and a person's shell to it: `assay server` runs registrar and verifier, every other command speaks
// the native API.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/assay-project/assay/cmd/assay/commands"
	"github.com/assay-project/assay/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Execute(ctx, commands.Root(), os.Args[1:], os.Stderr)
	stop()
	os.Exit(code)
}

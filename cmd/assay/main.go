// Command assay is the control plane and a person's shell to it: `assay server` runs registrar and verifier, every other command speaks
// the native API.
package main

import (
	"github.com/assay-project/assay/cmd/assay/commands"
	"github.com/assay-project/assay/internal/cli"
)

func main() { cli.Main(commands.Root()) }

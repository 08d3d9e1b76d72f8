// Command assay-labinit is the init of a lab machine. The kernel starts it as /init in the initramfs; it then becomes /sbin/init on the root
// file system, and that starts itself once more as the lab's server. It is linked statically and is of no use outside a lab machine.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/assay-project/assay/lab/guest"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	serve := len(os.Args) > 1 && os.Args[1] == guest.ServeArg
	if os.Getpid() != 1 && !serve {
		fmt.Fprintln(os.Stderr, "assay-labinit: only a lab machine's kernel starts this program")
		os.Exit(2)
	}
	var err error
	switch {
	case serve:
		err = guest.Serve(context.Background(), log)
	case os.Args[0] == guest.InitPath:
		err = guest.Init(log)
	default:
		err = guest.Boot()
	}
	// The host looks for this word on the console.
	fmt.Fprintf(os.Stderr, "%s: %v\n", guest.FatalMark, err)
	guest.PowerOff()
}

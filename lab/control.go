package lab

import (
	"context"
	"time"

	"github.com/assay-project/assay/lab/leash"
)

// What a supervisor is asked. Its answer is how QEMU ended, if it did; to askMute, for how long the machine has printed nothing since it started.
const (
	askStatus   = "status"
	askMute     = "mute"
	askPowerCut = "power-cut"
	askLinkUp   = "link-up"
	askLinkDown = "link-down"
	askDown     = "down"
)

const controlPatience = 2 * time.Minute

// ErrNoSupervisor says that a machine's supervisor does not run, and so neither does the machine.
var ErrNoSupervisor = leash.ErrNotRunning

// ask sends one request to the supervisor of the machine in folder.
func ask(ctx context.Context, folder, what string) (ended string, err error) {
	ctx, cancel := context.WithTimeout(ctx, controlPatience)
	defer cancel()
	return leash.Ask(ctx, folder, leash.Request{Ask: what})
}

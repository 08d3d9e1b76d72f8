package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/internal/swtpm"
	"github.com/assay-project/assay/lab/guest"
	"github.com/assay-project/assay/lab/host"
	"github.com/assay-project/assay/lab/leash"
)

// Forwarded ports come from below the range that the kernel hands out by itself, so that none is taken while a machine is switched off.
const (
	firstPort = 20000
	lastPort  = 32000
)

// ErrExists says that a machine's folder is in use.
var ErrExists = errors.New("the folder is not empty")

// Up makes a machine and waits until its init answers. Every mistake of the configuration and everything that the host lacks is reported at
// once. If it fails, or if this process ends before Detach, nothing of the machine is left.
func Up(ctx context.Context, cfg Config) (*Machine, error) {
	cfg, err := cfg.withDefaults()
	if err := errors.Join(err, checkHost(cfg.Firmware)); err != nil {
		return nil, fmt.Errorf("lab machine: %w", err)
	}
	if err := claimFolder(cfg.Dir); err != nil {
		return nil, fmt.Errorf("lab machine: %w", err)
	}
	m, err := up(ctx, cfg)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lab machine %s: %w", cfg.Dir, err), os.RemoveAll(cfg.Dir))
	}
	return m, nil
}

func claimFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read folder: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("%w: %s holds %s", ErrExists, dir, entries[0].Name())
	}
	return nil
}

func up(ctx context.Context, cfg Config) (*Machine, error) {
	s, err := prepare(ctx, cfg)
	if err != nil {
		return nil, err
	}
	cfg.Progress("starting the machine")
	m := newMachine(cfg.Dir, s)
	m.progress, m.mutePatience = cfg.Progress, cfg.mutePatience
	command := append(slices.Clone(cfg.Supervisor), cfg.Dir)
	if m.supervisor, err = leash.Start(ctx, command, filepath.Join(cfg.Dir, supervisorLog)); err != nil {
		return nil, err
	}
	if err := m.waitReady(ctx, ""); err != nil {
		return nil, errors.Join(err, m.Down(context.WithoutCancel(ctx)))
	}
	return m, nil
}

// prepare writes everything that the machine is made of.
func prepare(ctx context.Context, cfg Config) (spec, error) {
	kernel, err := FetchKernel(ctx, cfg.Cache, cfg.Progress)
	if err != nil {
		return spec{}, err
	}
	modules, err := openModules(kernel.Modules)
	if err != nil {
		return spec{}, err
	}
	loaded := map[string]bool{}
	early, err := modules.resolve(diskModules, loaded)
	if err != nil {
		return spec{}, err
	}
	late, err := modules.resolve(slices.Concat(rootModules, cfg.Modules), loaded)
	if err != nil {
		return spec{}, err
	}
	if err := writeInitramfs(filepath.Join(cfg.Dir, initramfsFile), cfg.Init, early); err != nil {
		return spec{}, err
	}
	key := make([]byte, 32)
	rand.Read(key)
	s := spec{
		Firmware: cfg.Firmware, MemoryMiB: cfg.MemoryMiB, Kernel: kernel.Image, Release: kernel.Release,
		Append: commandLine(cfg), Key: hex.EncodeToString(key), Taps: plugTaps(cfg.Taps), Vendor: cfg.Vendor,
	}
	cfg.Progress("making the root file system")
	tree := filepath.Join(cfg.Dir, treeDir)
	if err := stageRoot(ctx, tree, cfg, s, late); err != nil {
		return spec{}, err
	}
	if err := makeDisk(ctx, filepath.Join(cfg.Dir, diskFile), tree, cfg.DiskMiB); err != nil {
		return spec{}, err
	}
	cfg.Progress("manufacturing the TPM")
	tpm := swtpm.Options{StateDir: filepath.Join(cfg.Dir, tpmDir), CADir: cfg.Vendor, Name: "lab"}
	if err := swtpm.Manufacture(ctx, tpm); err != nil {
		return spec{}, err
	}
	if cfg.Firmware == OVMF {
		if err := copyVars(filepath.Join(cfg.Dir, varsFile)); err != nil {
			return spec{}, err
		}
	}
	if s.ExecPort, s.Forward, err = choosePorts(cfg.Forward); err != nil {
		return spec{}, err
	}
	if err := durable.WriteJSON(filepath.Join(cfg.Dir, specFile), s, 0o600); err != nil {
		return spec{}, err
	}
	return s, nil
}

// copyVars gives the machine its own firmware variables.
func copyVars(to string) error {
	vars, err := os.ReadFile(ovmfVars)
	if err != nil {
		return fmt.Errorf("firmware variables: %w", err)
	}
	return os.WriteFile(to, vars, 0o600)
}

// choosePorts fills in the free ones.
func choosePorts(want []Port) (execPort int, forward []Port, err error) {
	taken := map[int]bool{}
	for _, p := range want {
		taken[p.Host] = true
	}
	if execPort, err = freePort(taken); err != nil {
		return 0, nil, err
	}
	for _, p := range want {
		if p.Host == 0 {
			if p.Host, err = freePort(taken); err != nil {
				return 0, nil, err
			}
		}
		forward = append(forward, p)
	}
	return execPort, forward, nil
}

// FreePort finds a TCP port of the host's loopback that nobody listens on, for a Config.Forward whose number must be known beforehand.
func FreePort() (int, error) { return freePort(map[int]bool{}) }

func freePort(taken map[int]bool) (int, error) {
	for range 200 {
		port := firstPort + mathrand.IntN(lastPort-firstPort)
		if taken[port] {
			continue
		}
		l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		taken[port] = true
		return port, l.Close()
	}
	return 0, fmt.Errorf("no free port between %d and %d", firstPort, lastPort)
}

// bootPatience is how long a boot may take: emulated, with measured boot, beside other work.
const bootPatience = 10 * time.Minute

// waitReady waits until the machine's init answers in another boot than lastBoot, an id of the kernel's. A machine that prints nothing is switched
// off and on, once.
func (m *Machine) waitReady(ctx context.Context, lastBoot string) error {
	ctx, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	revived := false
	for try := time.Duration(0); ; try++ {
		// A packet that met no network card is sent again only seconds later: short tries, longer ones on a host that is slow.
		attempt, done := context.WithTimeout(ctx, min(2+try/10, 20)*time.Second)
		id, err := m.bootID(attempt)
		done()
		if err == nil && id != lastBoot {
			return nil
		}
		if sick := m.diagnose(ctx); sick != nil {
			return sick
		}
		if revived, err = m.revive(ctx, revived); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the machine: %w; its console ends with: %s", ctx.Err(), host.Tail(m.Console(), 5))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// mutePatience is how long a machine may run after its start without having printed anything. An emulated one takes two or three seconds for its
// first byte; about once in a hundred starts QEMU (7.2) hangs, with all processors spinning, and never prints any.
const mutePatience = time.Minute

// revive cuts the power of a machine that has been mute for too long, and switches it on again. One that was revived before has three times as long.
func (m *Machine) revive(ctx context.Context, before bool) (revived bool, err error) {
	text, err := ask(ctx, m.dir, askMute)
	if err != nil {
		return before, nil // diagnose knows more
	}
	mute, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return before, fmt.Errorf("the machine is said to be mute for %q: %w", text, err)
	case before && mute > 3*m.mutePatience:
		return before, fmt.Errorf("the machine printed nothing for %.0f s, nor for %.0f s before its power was cut: QEMU hangs, or the kernel does not start",
			mute.Seconds(), m.mutePatience.Seconds())
	case before || mute <= m.mutePatience:
		return before, nil
	}
	m.progress(fmt.Sprintf("the machine has printed nothing for %.0f s: cutting its power and starting it once more", mute.Seconds()))
	if _, err := ask(ctx, m.dir, askPowerCut); err != nil {
		return before, fmt.Errorf("start a machine that printed nothing once more: %w", err)
	}
	return true, nil
}

// diagnose finds a reason why waiting longer is of no use.
func (m *Machine) diagnose(ctx context.Context) error {
	ended, err := ask(ctx, m.dir, askStatus)
	switch {
	case m.supervisorEnded():
		return fmt.Errorf("the supervisor ended: %s", host.Tail(filepath.Join(m.dir, supervisorLog), 5))
	case err == nil && ended != "":
		return fmt.Errorf("%s; console: %s", ended, host.Tail(m.Console(), 5))
	}
	console, err := os.ReadFile(m.Console())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read console: %w", err)
	}
	for _, mark := range []string{guest.FatalMark, "Kernel panic"} {
		if _, after, found := strings.Cut(string(console), mark); found {
			line, _, _ := strings.Cut(after, "\n")
			return fmt.Errorf("%s%s", mark, strings.TrimSpace(line))
		}
	}
	return nil
}

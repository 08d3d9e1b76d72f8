package lab

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/internal/swtpm"
	"github.com/assay-project/assay/lab/guest"
	"github.com/assay-project/assay/lab/host"
	"github.com/assay-project/assay/lab/leash"
)

const bootIDPath = "/proc/sys/kernel/random/boot_id"

// downPatience is how long a supervisor may take to end its machine.
const downPatience = 30 * time.Second

// ErrNoMachine says that a folder holds no machine.
var ErrNoMachine = errors.New("no lab machine")

// A Machine is one that Up made or Attach found. Keep the value for as long as the machine is needed: until Detach the machine is tied to it.
type Machine struct {
	dir    string
	spec   spec
	client guest.Client

	supervisor   *leash.Child // nil when attached
	progress     func(string)
	mutePatience time.Duration
}

func newMachine(dir string, s spec) *Machine {
	key, err := hex.DecodeString(s.Key)
	if err != nil {
		key = nil // the machine refuses it
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(s.ExecPort))
	return &Machine{dir: dir, spec: s, client: guest.Client{Addr: addr, Key: key}, progress: func(string) {}, mutePatience: mutePatience}
}

// Attach finds the machine in a folder, which another process made. A machine that no longer runs can still be taken Down.
func Attach(dir string) (*Machine, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("attach to %s: %w", dir, err)
	}
	var s spec
	if err := durable.ReadJSON(filepath.Join(dir, specFile), &s); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoMachine, dir)
	} else if err != nil {
		return nil, fmt.Errorf("attach to machine: %w", err)
	}
	return newMachine(dir, s), nil
}

// List returns the machines whose folders lie in base, by name.
func List(base string) ([]*Machine, error) {
	entries, err := os.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	var machines []*Machine
	for _, entry := range entries {
		m, err := Attach(filepath.Join(base, entry.Name()))
		if errors.Is(err, ErrNoMachine) {
			continue
		}
		if err != nil {
			return nil, err
		}
		machines = append(machines, m)
	}
	return machines, nil
}

// Dir is the machine's folder.
func (m *Machine) Dir() string { return m.dir }

// Name is the last element of the folder's path.
func (m *Machine) Name() string { return filepath.Base(m.dir) }

// Firmware is what the machine boots with.
func (m *Machine) Firmware() Firmware { return m.spec.Firmware }

// KernelRelease is the release of the machine's kernel.
func (m *Machine) KernelRelease() string { return m.spec.Release }

// Tree is the folder on the host from which the machine's root file system was made. It does not follow what the machine changes.
func (m *Machine) Tree() string { return filepath.Join(m.dir, treeDir) }

// Console is the path of the log of the machine's serial console, over all its boots.
func (m *Machine) Console() string { return filepath.Join(m.dir, consoleFile) }

// Forward returns the machine's ports and where the host's loopback has them.
func (m *Machine) Forward() []Port { return m.spec.Forward }

// HostPort returns the host's port for one of the machine, 0 if it is not forwarded.
func (m *Machine) HostPort(guestPort int) int {
	for _, p := range m.spec.Forward {
		if p.Guest == guestPort {
			return p.Host
		}
	}
	return 0
}

// EKRoot returns the certificates of the CA that endorsed the machine's TPM, root first, in PEM.
func (m *Machine) EKRoot() ([]byte, error) { return swtpm.Authorities(m.spec.Vendor) }

// Running reports whether the machine is switched on; if not, how it ended.
func (m *Machine) Running(ctx context.Context) (running bool, ended string) {
	ended, err := ask(ctx, m.dir, askStatus)
	if err != nil {
		return false, err.Error()
	}
	return ended == "", ended
}

// Exec runs a command in the machine; see guest.Client.
func (m *Machine) Exec(ctx context.Context, cmd guest.Command) (int, error) {
	return m.client.Exec(ctx, cmd)
}

// Output runs a command as root and returns its stdout. An exit code other than 0 is an error with the end of its stderr.
func (m *Machine) Output(ctx context.Context, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	exit, err := m.Exec(ctx, guest.Command{Args: args, Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return "", err
	}
	if exit != 0 {
		return stdout.String(), fmt.Errorf("%s: exit code %d: %s", strings.Join(args, " "), exit, host.LastLines(stderr.String(), 4))
	}
	return stdout.String(), nil
}

// ReadFile returns the content of a file of the machine.
func (m *Machine) ReadFile(ctx context.Context, path string) ([]byte, error) {
	var buf bytes.Buffer
	err := m.client.ReadFile(ctx, path, &buf)
	return buf.Bytes(), err
}

// WriteFile replaces a file of the machine, or makes it.
func (m *Machine) WriteFile(ctx context.Context, path string, mode fs.FileMode, data []byte) error {
	return m.client.WriteFile(ctx, path, mode, bytes.NewReader(data))
}

// Client is the exec service, for streams.
func (m *Machine) Client() guest.Client { return m.client }

func (m *Machine) bootID(ctx context.Context) (string, error) {
	id, err := m.ReadFile(ctx, bootIDPath)
	return strings.TrimSpace(string(id)), err
}

// Reboot restarts the machine in good order and waits until it is up again. The TPM is reset as by a board.
func (m *Machine) Reboot(ctx context.Context) error {
	boot, err := m.bootID(ctx)
	if err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	if err := m.client.Reboot(ctx); err != nil {
		return err
	}
	return m.waitReady(ctx, boot)
}

// PowerCut takes the power from the machine and its TPM at once, switches it on again and waits until it is up. It switches on a machine
// that is off, too.
func (m *Machine) PowerCut(ctx context.Context) error {
	if _, err := ask(ctx, m.dir, askPowerCut); err != nil {
		return err
	}
	return m.waitReady(ctx, "")
}

// Link is the state of the machine's network cable.
type Link string

// The states of a cable.
const (
	LinkUp   Link = askLinkUp
	LinkDown Link = askLinkDown
)

// SetLink pulls or plugs the cable of the machine's network card. Commands and files reach the machine all the same.
func (m *Machine) SetLink(ctx context.Context, state Link) error {
	_, err := ask(ctx, m.dir, string(state))
	return err
}

// Detach lets the machine outlive this process. From then on only Down ends it.
func (m *Machine) Detach() error {
	if m.supervisor == nil {
		return nil
	}
	if err := m.supervisor.Detach(); err != nil {
		return fmt.Errorf("machine %s: %w", m.dir, err)
	}
	return nil
}

// Down ends the machine and removes its folder. A machine that is gone already is no error.
func (m *Machine) Down(ctx context.Context) error {
	var r running
	if err := durable.ReadJSON(filepath.Join(m.dir, runFile), &r); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("down: %w", err)
	}
	// The supervisor may be gone already: what counts is whether the processes end.
	ask(ctx, m.dir, askDown)
	if m.supervisor != nil {
		m.supervisor.Pull()
		select {
		case <-m.supervisor.Ended():
		case <-time.After(downPatience):
		}
	}
	var errs []error
	if r.Supervisor.Await(downPatience) != nil {
		errs = append(errs, r.Supervisor.Kill())
	}
	return errors.Join(append(errs, r.QEMU.Kill(), os.RemoveAll(m.dir))...)
}

// supervisorEnded reports whether our own supervisor is gone. That of an attached machine is another's.
func (m *Machine) supervisorEnded() bool {
	if m.supervisor == nil {
		return false
	}
	select {
	case <-m.supervisor.Ended():
		return true
	default:
		return false
	}
}

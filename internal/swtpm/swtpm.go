// Package swtpm manufactures and runs TPM emulators (Stefan Berger's swtpm) for tests and for lab machines: real TPM 2.0 behaviour in a process.
//
// An emulator ends with the program that started it, even if that program is killed. It trusts the host; an emulated TPM proves nothing about a machine,
// and its CA must never be among the roots of a real installation. Opening the TPM is left to package tpm.
package swtpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// maxSocketPath is what a Unix socket address holds, less its final NUL (unix(7)).
const maxSocketPath = 107

// stopTimeout bounds how long an emulator may take to end by itself.
const stopTimeout = 5 * time.Second

// Audience says who speaks to an emulator.
type Audience int

const (
	// Program: commands come over Socket; the emulator performs TPM2_Startup itself, as firmware would.
	Program Audience = iota
	// Machine: QEMU takes the emulator over Control (-chardev socket,path=..., -tpmdev emulator), and the firmware in it performs TPM2_Startup.
	Machine
)

// Config says which TPM to run and where.
type Config struct {
	// StateDir was made by Manufacture. Its log is swtpm.log there.
	StateDir string
	// SocketDir holds the sockets; StateDir by default. Socket paths are limited to 107 bytes.
	SocketDir string
	Audience  Audience
}

// Emulator is a running TPM. Its methods are not safe for concurrent use.
type Emulator struct {
	config Config
	cmd    *exec.Cmd
	ended  chan struct{} // closed when the process is gone
}

// Start runs the TPM of a state directory and waits until it answers. For Audience Program it has started up with its PCRs reset (TPM2_Startup with CLEAR).
func Start(ctx context.Context, config Config) (*Emulator, error) {
	if config.SocketDir == "" {
		config.SocketDir = config.StateDir
	}
	for _, dir := range []*string{&config.StateDir, &config.SocketDir} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return nil, fmt.Errorf("start TPM emulator: %w", err)
		}
		*dir = abs
	}
	e := &Emulator{config: config}
	if path := e.Control(); len(path) > maxSocketPath {
		return nil, fmt.Errorf("start TPM emulator: socket path %q has %d bytes, more than %d: choose a shorter SocketDir", path, len(path), maxSocketPath)
	}
	if _, err := os.Stat(filepath.Join(config.StateDir, stateFile)); err != nil {
		return nil, fmt.Errorf("start TPM emulator: no manufactured TPM: %w", err)
	}
	if err := e.start(ctx, "startup-clear"); err != nil {
		return nil, err
	}
	return e, nil
}

// Socket returns the path of the Unix socket that takes TPM commands (Audience Program).
func (e *Emulator) Socket() string { return filepath.Join(e.config.SocketDir, "tpm.sock") }

// Control returns the path of the Unix socket of the control channel.
func (e *Emulator) Control() string { return filepath.Join(e.config.SocketDir, "ctrl.sock") }

// Ended returns a channel that is closed when the process is gone.
func (e *Emulator) Ended() <-chan struct{} { return e.ended }

func (e *Emulator) logPath() string { return filepath.Join(e.config.StateDir, "swtpm.log") }

func (e *Emulator) start(ctx context.Context, startup string) error {
	args := []string{"socket", "--tpm2", "--tpmstate", "dir=" + e.config.StateDir, "--ctrl", "type=unixio,path=" + e.Control(),
		"--log", "file=" + e.logPath() + ",level=1,truncate"}
	answers := e.controlAnswers
	if e.config.Audience == Program {
		args = append(args, "--server", "type=unixio,path="+e.Socket(), "--flags", "not-need-init,"+startup)
		answers = e.commandAnswers
	}
	for _, stale := range []string{e.Control(), e.Socket()} {
		if err := os.Remove(stale); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("start TPM emulator: %w", err)
		}
	}
	e.cmd, e.ended = exec.Command("swtpm", args...), make(chan struct{})
	if err := run(e.cmd, e.ended); err != nil {
		return fmt.Errorf("start TPM emulator: %w", err)
	}
	return e.await(ctx, answers)
}

// run starts cmd so that it dies with this program, and closes ended when it is gone. The kernel sends the signal when the thread that started
// the child ends, so one goroutine keeps that thread until the child is gone.
func run(cmd *exec.Cmd, ended chan<- struct{}) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended does not matter: a power cut is a kill
		}
	}()
	return <-started
}

// await waits until the emulator answers. It takes connections before it has read its state, so that a connection alone says nothing yet.
func (e *Emulator) await(ctx context.Context, answers func() error) error {
	for {
		err := answers()
		var refusal tpm2.TPMRC
		if err == nil {
			return nil
		}
		if errors.As(err, &refusal) {
			e.kill()
			return fmt.Errorf("start TPM emulator: %w", refusal)
		}
		select {
		case <-e.ended:
			log, _ := os.ReadFile(e.logPath())
			return fmt.Errorf("start TPM emulator: it ended at once: %s", tail(log))
		case <-ctx.Done():
			e.kill()
			return fmt.Errorf("start TPM emulator: wait for an answer: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// commandAnswers asks the TPM something that needs it to be started up.
func (e *Emulator) commandAnswers() error {
	device, err := linuxudstpm.Open(e.Socket())
	if err != nil {
		return err
	}
	defer device.Close()
	_, err = tpm2.ReadClock{}.Execute(device)
	return err
}

func (e *Emulator) controlAnswers() error {
	conn, err := net.Dial("unix", e.Control())
	if err != nil {
		return err
	}
	return conn.Close()
}

// Reset is a way for a TPM to go through its reset line (TPM 2.0 Part 1, "Startup").
type Reset int

const (
	// Reboot is TPM2_Shutdown(CLEAR), reset, TPM2_Startup(CLEAR): "TPM Reset", a new boot.
	Reboot Reset = iota
	// PowerCut is a reset without TPM2_Shutdown: a new boot, after which the clock may have gone back.
	PowerCut
	// Restart is TPM2_Shutdown(STATE), reset, TPM2_Startup(CLEAR): "TPM Restart", hibernation.
	Restart
	// Resume is TPM2_Shutdown(STATE), reset, TPM2_Startup(STATE): "TPM Resume", sleep; PCRs are kept.
	Resume
)

// Cycle takes an emulator of Audience Program through a reset. Connections to Socket must be made anew. After a few power cuts a TPM may be in
// lockout if keys under dictionary-attack protection were in use; see ClearLockout.
func (e *Emulator) Cycle(ctx context.Context, reset Reset) error {
	startup := "startup-clear"
	switch reset {
	case Reboot:
		if err := e.shutdown(tpm2.TPMSUClear); err != nil {
			return err
		}
	case Restart, Resume:
		if err := e.shutdown(tpm2.TPMSUState); err != nil {
			return err
		}
		if reset == Resume {
			startup = "startup-state"
		}
	}
	e.kill()
	return e.start(ctx, startup)
}

// Stop shuts the TPM down in an orderly way and ends the emulator. It is safe to call again.
func (e *Emulator) Stop() error {
	var err error
	if e.running() && e.config.Audience == Program {
		err = e.shutdown(tpm2.TPMSUClear)
	}
	if e.running() {
		_ = e.cmd.Process.Signal(syscall.SIGTERM) // it may be gone by now; the wait below tells
		select {
		case <-e.ended:
		case <-time.After(stopTimeout):
		}
	}
	e.kill()
	return err
}

func (e *Emulator) running() bool {
	select {
	case <-e.ended:
		return false
	default:
		return true
	}
}

// kill ends the process without a chance to save anything, and waits until it is gone.
func (e *Emulator) kill() {
	_ = e.cmd.Process.Kill() // an error says that it is gone already
	<-e.ended
}

func (e *Emulator) shutdown(kind tpm2.TPMSU) error {
	device, err := linuxudstpm.Open(e.Socket())
	if err != nil {
		return fmt.Errorf("shut TPM emulator down: %w", err)
	}
	defer device.Close()
	if _, err := (tpm2.Shutdown{ShutdownType: kind}).Execute(device); err != nil {
		return fmt.Errorf("shut TPM emulator down: %w", err)
	}
	return nil
}

// ClearLockout ends a lockout by the dictionary-attack protection, as `tpm2_dictionarylockout -c` does; the lockout authorisation must be empty.
func (e *Emulator) ClearLockout() error {
	device, err := linuxudstpm.Open(e.Socket())
	if err != nil {
		return fmt.Errorf("clear lockout: %w", err)
	}
	defer device.Close()
	response, err := device.Send(lockReset())
	if err != nil {
		return fmt.Errorf("clear lockout: %w", err)
	}
	if len(response) < responseHeader {
		return fmt.Errorf("clear lockout: answer has %d bytes", len(response))
	}
	if code := tpm2.TPMRC(binary.BigEndian.Uint32(response[6:])); code != tpm2.TPMRCSuccess {
		return fmt.Errorf("clear lockout: %w", code)
	}
	return nil
}

// responseHeader is the size of tag, size and response code.
const responseHeader = 10

// lockReset is TPM2_DictionaryAttackLockReset (TPM 2.0 Part 3, section 25.3) with an empty password; go-tpm does not have this command.
func lockReset() []byte {
	command := []byte{0x80, 0x02, 0, 0, 0, 27, 0, 0, 0x01, 0x39}
	command = binary.BigEndian.AppendUint32(command, uint32(tpm2.TPMRHLockout))
	command = binary.BigEndian.AppendUint32(command, 9) // bytes of the session that follows: password, no nonce, no attributes, empty
	command = binary.BigEndian.AppendUint32(command, uint32(tpm2.TPMRSPW))
	return append(command, 0, 0, 0, 0, 0)
}

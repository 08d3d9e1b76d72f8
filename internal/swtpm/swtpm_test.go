package swtpm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/assay-project/assay/internal/need"
)

// shortDir makes a directory whose path leaves room for a socket's name, which t.TempDir's may not.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "swtpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func manufactured(t *testing.T) Config {
	t.Helper()
	need.Swtpm(t)
	dir := shortDir(t)
	if err := Manufacture(t.Context(), Options{StateDir: dir, CADir: filepath.Join(dir, "ca")}); err != nil {
		t.Fatal(err)
	}
	return Config{StateDir: dir}
}

func started(t *testing.T, config Config) *Emulator {
	t.Helper()
	e, err := Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func clock(t *testing.T, e *Emulator) tpm2.TPMSClockInfo {
	t.Helper()
	device, err := linuxudstpm.Open(e.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	read, err := tpm2.ReadClock{}.Execute(device)
	if err != nil {
		t.Fatal(err)
	}
	return read.CurrentTime.ClockInfo
}

// What the trust model's clock rule rests on, as libtpms does it.
func TestCycle(t *testing.T) {
	e := started(t, manufactured(t))
	for _, row := range []struct {
		reset            Reset
		resets, restarts uint32 // by how much the counters rise; a reset zeroes restarts
		safe             tpm2.TPMIYesNo
	}{
		{Reboot, 1, 0, true},
		{Restart, 0, 1, true},
		{Resume, 0, 1, true},
		{PowerCut, 1, 0, false},
		{PowerCut, 1, 0, false},
		{Reboot, 1, 0, false},
	} {
		before := clock(t, e)
		if err := e.Cycle(t.Context(), row.reset); err != nil {
			t.Fatal(err)
		}
		after := clock(t, e)
		restarts := row.restarts
		if row.resets == 0 {
			restarts += before.RestartCount
		}
		if after.ResetCount-before.ResetCount != row.resets || after.RestartCount != restarts {
			t.Errorf("reset %d: from %+v to %+v", row.reset, before, after)
		}
		if row.safe && !after.Safe {
			t.Errorf("reset %d: the clock is not safe: %+v", row.reset, after)
		}
	}
	if err := e.ClearLockout(); err != nil {
		t.Error(err)
	}
}

func TestManufactureKeepsIdentity(t *testing.T) {
	config := manufactured(t)
	before, err := os.ReadFile(filepath.Join(config.StateDir, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	options := Options{StateDir: config.StateDir, CADir: filepath.Join(config.StateDir, "ca")}
	if err := Manufacture(t.Context(), options); !errors.Is(err, ErrManufactured) {
		t.Errorf("%v, expected ErrManufactured", err)
	}
	if after, err := os.ReadFile(filepath.Join(config.StateDir, stateFile)); err != nil || string(after) != string(before) {
		t.Errorf("the TPM was changed: %v", err)
	}
	authorities, err := Authorities(options.CADir)
	if err != nil || strings.Count(string(authorities), "BEGIN CERTIFICATE") != 2 {
		t.Errorf("authorities %q, %v: expected root and intermediate", authorities, err)
	}
}

// QEMU needs the control channel alone.
func TestStartForMachine(t *testing.T) {
	config := manufactured(t)
	config.Audience = Machine
	e := started(t, config)
	conn, err := net.Dial("unix", e.Control())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := os.Stat(e.Socket()); err == nil {
		t.Error("there is a command socket that nobody asked for")
	}
}

func TestStartErrors(t *testing.T) {
	config := manufactured(t)
	long := filepath.Join(config.StateDir, strings.Repeat("x", 100))
	garbage := shortDir(t)
	if err := os.WriteFile(filepath.Join(garbage, stateFile), []byte("no TPM state"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, bad := range map[string]Config{
		"choose a shorter SocketDir": {StateDir: config.StateDir, SocketDir: long},
		"no manufactured TPM":        {StateDir: shortDir(t)},
		"it ended at once":           {StateDir: garbage},
	} {
		if _, err := Start(t.Context(), bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, expected %q", err, want)
		}
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Manufacture(canceled, Options{StateDir: shortDir(t), CADir: shortDir(t)}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, expected the context's error", err)
	}
	if err := Manufacture(t.Context(), Options{StateDir: "a b", CADir: "c"}); err == nil || !strings.Contains(err.Error(), "spaces") {
		t.Errorf("%v, expected a complaint about the space", err)
	}
}

func TestStopTwice(t *testing.T) {
	e := started(t, manufactured(t))
	for range 2 {
		if err := e.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// parentVariable tells the test binary to be the program that starts an emulator and is then killed.
const parentVariable = "ASSAY_SWTPM_PARENT"

// An emulator ends with its parent, even one that is killed.
func TestEndsWithParent(t *testing.T) {
	if dir := os.Getenv(parentVariable); dir != "" {
		e, err := Start(context.Background(), Config{StateDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("emulator", e.cmd.Process.Pid)
		select {}
	}
	config := manufactured(t)
	parent := exec.Command(os.Args[0], "-test.run=^TestEndsWithParent$")
	parent.Env = append(os.Environ(), parentVariable+"="+config.StateDir)
	output, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscanf(output, "emulator %d\n", &pid); err != nil {
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // it was killed
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) || zombie(pid) {
			return
		}
	}
	t.Errorf("emulator %d outlives its parent", pid)
}

// zombie reports whether a process has ended and only waits for init, which a container may lack, to collect it.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/lab/host"
)

func TestConsoleMute(t *testing.T) {
	c := console{path: filepath.Join(t.TempDir(), "console.log")}
	write := func(text string) {
		t.Helper()
		f, err := os.OpenFile(c.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	c.start()
	time.Sleep(time.Millisecond)
	if c.mute() < time.Millisecond {
		t.Errorf("before the log exists: mute for %v", c.mute())
	}
	write("one")
	if c.mute() != 0 {
		t.Errorf("after the first byte: mute for %v", c.mute())
	}
	c.start()
	time.Sleep(time.Millisecond)
	if mute := c.mute(); mute < time.Millisecond || mute > time.Minute {
		t.Errorf("after a restart: mute for %v; what was printed before counts for nothing", mute)
	}
	write("two")
	if c.mute() != 0 {
		t.Errorf("after the first byte of the second start: mute for %v", c.mute())
	}
}

// frozen has supervisors find a QEMU whose processors stand still in its first starts, as they do for good when it hangs: it prints nothing.
func frozen(t *testing.T, first int) (starts func() int) {
	t.Helper()
	qemu, err := host.Program("qemu-system-x86_64", "qemu-system-x86")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	log := filepath.Join(dir, "starts")
	script := fmt.Sprintf("#!/bin/sh\necho x >> %s\n[ $(wc -l < %[1]s) -gt %d ] || set -- \"$@\" -S\nexec %s \"$@\"\n", log, first, qemu)
	if err := os.WriteFile(filepath.Join(dir, filepath.Base(qemu)), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() int {
		data, err := os.ReadFile(log)
		if err != nil {
			t.Error(err)
		}
		return strings.Count(string(data), "x")
	}
}

// TestHungStart: a machine that prints nothing after its start gets a second one, when it is made and when it reboots.
func TestHungStart(t *testing.T) {
	place(t)
	starts := frozen(t, 1)
	var told []string
	m := boot(t, Config{mutePatience: 10 * time.Second, Progress: func(step string) { told = append(told, step) }})
	revived := func(step string) bool {
		return strings.HasPrefix(step, "the machine has printed nothing for 1") && strings.HasSuffix(step, " s: cutting its power and starting it once more")
	}
	if starts() != 2 || !slices.ContainsFunc(told, revived) {
		t.Errorf("%d starts, and told: %q", starts(), told)
	}
	told = nil
	rebooted := make(chan error, 1)
	go func() { rebooted <- m.Reboot(t.Context()) }()
	stopAtReset(t, m)
	if err := <-rebooted; err != nil {
		t.Error(err)
	}
	if starts() != 3 || len(told) != 1 || !revived(told[0]) {
		t.Errorf("reboot: %d starts, and told: %q", starts(), told)
	}
}

// stopAtReset stops QEMU in the moment in which the machine starts anew.
func stopAtReset(t *testing.T, m *Machine) {
	t.Helper()
	var r running
	if err := durable.ReadJSON(filepath.Join(m.Dir(), runFile), &r); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		log, err := os.ReadFile(filepath.Join(m.Dir(), supervisorLog))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(log), "event=RESET") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the machine does not restart: %s", log)
		}
	}
	if err := syscall.Kill(r.QEMU.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

// TestMuteMachine: there is one second start and no third, and the maker is told.
func TestMuteMachine(t *testing.T) {
	place(t)
	starts := frozen(t, 100)
	dir := filepath.Join(t.TempDir(), "machine")
	_, err := Up(t.Context(), Config{Dir: dir, Init: buildInit(t), mutePatience: 2 * time.Second})
	if err == nil || !strings.Contains(err.Error(), "the machine printed nothing for ") || !strings.Contains(err.Error(), "nor for 2 s before its power was cut") {
		t.Errorf("%v", err)
	}
	if starts() != 2 {
		t.Errorf("%d starts", starts())
	}
	expectGone(t, dir, nil)
}

package guest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/internal/swtpm"
)

func emulator(t *testing.T) *swtpm.Emulator {
	t.Helper()
	need.Swtpm(t)
	dir, err := os.MkdirTemp("", "clock") // t.TempDir's paths are too long for Unix sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := swtpm.Manufacture(t.Context(), swtpm.Options{StateDir: dir, CADir: filepath.Join(dir, "ca")}); err != nil {
		t.Fatal(err)
	}
	e, err := swtpm.Start(t.Context(), swtpm.Config{StateDir: dir})
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

func clockInfo(t *testing.T, e *swtpm.Emulator) tpm2.TPMSClockInfo {
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

// runSaver saves the clock of e for a while.
func runSaver(t *testing.T, e *swtpm.Emulator, during time.Duration) {
	t.Helper()
	conn, err := net.Dial("unix", e.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), during)
	defer cancel()
	if err := saveClock(ctx, conn); err != nil {
		t.Fatal(err)
	}
}

// After a power cut the clock is at the last save and not safe; the same without the saver shows what it is for.
func TestClockOutlivesAPowerCut(t *testing.T) {
	e := emulator(t)
	const passed = uint64(clockSaveEvery / time.Millisecond)
	for _, row := range []struct {
		name  string
		live  func()
		saved bool
	}{
		{"not saved", func() { time.Sleep(clockSaveEvery + 200*time.Millisecond) }, false},
		{"saved", func() { runSaver(t, e, clockSaveEvery+200*time.Millisecond) }, true},
		{"saved again", func() { runSaver(t, e, clockSaveEvery+200*time.Millisecond) }, true},
	} {
		row.live()
		before := clockInfo(t, e)
		if err := e.Cycle(t.Context(), swtpm.PowerCut); err != nil {
			t.Fatal(err)
		}
		after := clockInfo(t, e)
		// Since the save, which is a multiple, at most one interval was lost.
		if kept := after.Clock >= before.Clock-before.Clock%passed; kept != row.saved || after.Safe {
			t.Errorf("%s: from %+v to %+v", row.name, before, after)
		}
	}
}

// answers is a TPM that says always the same.
type answers struct {
	io.Reader
	io.Writer
}

func TestSaveClockErrors(t *testing.T) {
	for want, answer := range map[string]string{
		"answer of 3 bytes":             "\x80\x01\x00",
		"TPM response code 0x100":       "\x80\x01\x00\x00\x00\x0a\x00\x00\x01\x00",
		"EOF":                           "",
		"read clock: answer of 0 bytes": "\x80\x01\x00\x00\x00\x0a\x00\x00\x00\x00",
	} {
		err := saveClock(t.Context(), answers{Reader: &oneByOne{answer: answer}, Writer: io.Discard})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, expected %q", err, want)
		}
	}
	closed := answers{Reader: bytes.NewReader(nil), Writer: failing{}}
	if err := saveClock(t.Context(), closed); !errors.Is(err, os.ErrClosed) {
		t.Errorf("%v, expected the write's error", err)
	}
}

// oneByOne gives the whole answer to each read.
type oneByOne struct{ answer string }

func (r *oneByOne) Read(p []byte) (int, error) {
	if r.answer == "" {
		return 0, io.EOF
	}
	return copy(p, r.answer), nil
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, os.ErrClosed }

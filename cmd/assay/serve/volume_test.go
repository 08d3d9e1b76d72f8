package serve_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/cmd/assay/serve"
	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/internal/need"
)

// mount makes a folder a volume of 8 MiB.
func mount(t *testing.T, folder string, flags uintptr) {
	t.Helper()
	if err := unix.Mount("tmpfs", folder, "tmpfs", flags, "size=8m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(folder, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fill leaves no room on a volume.
func fill(folder string) error {
	if err := os.WriteFile(filepath.Join(folder, "ballast"), bytes.Repeat([]byte{1}, 16<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("the volume is not full: %w", err)
	}
	return nil
}

// A volume that fills up under a running server: the server lives, is not ready, says so to its operator, and comes back with the room.
func TestFullVolume(t *testing.T) {
	need.Root(t)
	c := newCluster(t)
	c.cfg.StateDir = c.at("volume")
	if err := os.Mkdir(c.cfg.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	mount(t, c.cfg.StateDir, 0)
	a := c.authority("own")
	c.supply(a, a)
	c.start()
	operator := c.as(a, mtls.Operator)
	if answer, err := operator.Server(t.Context()); err != nil || answer.Database != "" {
		t.Errorf("%+v, %v", answer, err)
	}
	if err := fill(c.cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	c.eventually("not ready", func() error {
		if status, text := c.probe("/readyz"); status != http.StatusServiceUnavailable || text != "the database cannot be read or written\n" {
			return fmt.Errorf("%d %s", status, text) // nothing of where it lies and what it said: anybody may ask
		}
		return nil
	})
	if answer, err := operator.Server(t.Context()); err != nil || !strings.Contains(answer.Database, "full") {
		t.Errorf("%+v, %v", answer, err)
	}
	if status, _ := c.probe("/healthz"); status != http.StatusOK {
		t.Errorf("healthz: %d", status)
	}
	if err := os.Remove(filepath.Join(c.cfg.StateDir, "ballast")); err != nil {
		t.Fatal(err)
	}
	c.eventually("ready, with room again", func() error {
		if status, text := c.probe("/readyz"); status != http.StatusOK {
			return fmt.Errorf("%d %s", status, text)
		}
		return nil
	})
}

// State that is well is not called damaged: not when another server has it open, and not when the server is told to end while it opens it.
func TestStateThatIsWell(t *testing.T) {
	c := newCluster(t)
	a := c.authority("own")
	c.supply(a, a)
	run := func(ctx context.Context) error {
		return serve.Run(ctx, serve.Options{Config: c.cfg, Version: "test", Out: t.Output(), Log: t.Output()})
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ended); !errors.Is(err, context.Canceled) || errors.Is(err, serve.ErrState) {
		t.Errorf("told to end: %v", err)
	}
	c.start()
	if err := run(t.Context()); !errors.Is(err, durable.ErrLocked) || errors.Is(err, serve.ErrState) || !strings.Contains(err.Error(), c.cfg.StateDir) {
		t.Errorf("in use: %v", err)
	}
}

// State that cannot be opened ends the server at once, with an error that its caller can tell from others.
func TestStateThatCannotBeOpened(t *testing.T) {
	need.Root(t)
	for name, spoil := range map[string]func(t *testing.T, dir string) error{
		"a full volume":      func(t *testing.T, dir string) error { mount(t, dir, 0); return fill(dir) },
		"a read-only volume": func(t *testing.T, dir string) error { mount(t, dir, unix.MS_RDONLY); return nil },
		"a database that is none": func(_ *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, "assay.db"), bytes.Repeat([]byte("x"), 4096), 0o600)
		},
		"another program's folder": func(_ *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, "VERSION"), []byte("other 7\n"), 0o600)
		},
		"a folder for everybody":     func(_ *testing.T, dir string) error { return os.Chmod(dir, 0o777) },
		"a folder in the file's way": func(_ *testing.T, dir string) error { return os.Mkdir(filepath.Join(dir, "assay.db"), 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			a := c.authority("own")
			c.supply(a, a)
			if err := os.Mkdir(c.cfg.StateDir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := spoil(t, c.cfg.StateDir); err != nil {
				t.Fatal(err)
			}
			err := serve.Run(t.Context(), serve.Options{Config: c.cfg, Version: "test", Out: t.Output(), Log: t.Output()})
			if !errors.Is(err, serve.ErrState) || !strings.Contains(err.Error(), c.cfg.StateDir) {
				t.Errorf("have %v", err)
			}
		})
	}
	// With good state and another fault it is another error.
	c := newCluster(t)
	a := c.authority("own")
	c.supply(a, a)
	c.cfg.Listen.API = "127.0.0.1:1"
	c.cfg.Listen.Registrar = c.cfg.Listen.Metrics
	if err := serve.Run(t.Context(), serve.Options{Config: c.cfg, Version: "test", Out: t.Output(), Log: t.Output()}); err == nil || errors.Is(err, serve.ErrState) {
		t.Errorf("have %v", err)
	}
}

package serve_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/cmd/assay/serve"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/internal/need"
)

// A volume that fills up under a running server: the server lives, is not ready, says so to its operator, and comes back with the room.
func TestFullVolume(t *testing.T) {
	need.Root(t)
	c := newCluster(t)
	c.cfg.StateDir = c.at("volume")
	if err := os.Mkdir(c.cfg.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", c.cfg.StateDir, "tmpfs", 0, "size=8m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(c.cfg.StateDir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	a := c.authority("own")
	c.supply(a, a)
	c.start()
	operator := c.as(a, mtls.Operator)
	if answer, err := operator.Server(t.Context()); err != nil || answer.Database != "" {
		t.Errorf("%+v, %v", answer, err)
	}
	ballast := filepath.Join(c.cfg.StateDir, "ballast")
	if err := os.WriteFile(ballast, bytes.Repeat([]byte{1}, 16<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the volume is not full: %v", err)
	}
	c.eventually("not ready", func() error {
		if status, text := c.probe("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(text, "full") {
			return fmt.Errorf("%d %s", status, text)
		}
		return nil
	})
	if answer, err := operator.Server(t.Context()); err != nil || !strings.Contains(answer.Database, "full") {
		t.Errorf("%+v, %v", answer, err)
	}
	if status, _ := c.probe("/healthz"); status != http.StatusOK {
		t.Errorf("healthz: %d", status)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if status, text := c.probe("/readyz"); status != http.StatusOK {
		t.Errorf("with room again: %d %s", status, text)
	}
}

// State that cannot be opened ends the server at once, with an error that its caller can tell from others.
func TestStateThatCannotBeOpened(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"a database that is none": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "assay.db"), bytes.Repeat([]byte("x"), 4096), 0o600)
		},
		"another program's folder":   func(dir string) error { return os.WriteFile(filepath.Join(dir, "VERSION"), []byte("other 7\n"), 0o600) },
		"a folder for everybody":     func(dir string) error { return os.Chmod(dir, 0o777) },
		"a folder in the file's way": func(dir string) error { return os.Mkdir(filepath.Join(dir, "assay.db"), 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			a := c.authority("own")
			c.supply(a, a)
			if err := os.Mkdir(c.cfg.StateDir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := spoil(c.cfg.StateDir); err != nil {
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

package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/cluster"
	"github.com/assay-project/assay/test/traces"
)

const checkout = "../.."

func TestMain(m *testing.M) {
	runMachine()
	os.Exit(m.Run())
}

// newTestPlace is a place with a folder that is not there yet.
func newTestPlace(t *testing.T) *place {
	t.Helper()
	folder, err := os.MkdirTemp("", "o-") // t.TempDir's paths are too long for some sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	p, err := newPlace(place{dir: filepath.Join(folder, "outside"), checkout: checkout, out: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestOutside is the whole way, by the functions that the verbs of the make file call.
func TestOutside(t *testing.T) {
	need.Cluster(t)
	need.Program(t, "util-linux", "unshare", "nsenter")
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	release, err := lab.Exclusive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	p := newTestPlace(t)
	host := traces.Before(t, p.dir)
	if err := verify(ctx, p); !errors.Is(err, errNothingRuns) {
		t.Errorf("verify before run: %v", err)
	}
	defer func() {
		if err := clean(context.WithoutCancel(ctx), p); err != nil {
			t.Error(err)
		}
	}()
	if err := run(ctx, p); err != nil {
		t.Fatal(err)
	}
	host.Follow(t)
	if err := run(ctx, p); err == nil || !strings.Contains(err.Error(), "it runs already") {
		t.Errorf("run twice: %v", err)
	}
	otherCache(t, ctx, p)
	if err := verify(ctx, p); err != nil {
		t.Fatal(err)
	}
	rightNamesDoNotFail(t, ctx, p)
	if err := clean(ctx, p); err != nil {
		t.Fatal(err)
	}
	host.NothingLeft(t)
}

// rightNamesDoNotFail is the twin of the swapped names: the same way with the right names finds nothing.
func rightNamesDoNotFail(t *testing.T, ctx context.Context, p *place) {
	t.Helper()
	w, err := findWorld(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second) // more than swapped names take to be found
	defer cancel()
	if err := w.mistaken(ctx, w.addresses()); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `verdict "Trusted"`) {
		t.Errorf("with the right names: %v, want that both stay Trusted", err)
	}
}

// otherCache: realclean ends nobody's cluster, and removes the caches when there is none. The cache is one of this test's own.
func otherCache(t *testing.T, ctx context.Context, p *place) {
	t.Helper()
	base := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", base)
	up, err := cluster.Folder()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(up), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(p.clusterDir(), up); err != nil {
		t.Fatal(err)
	}
	other, err := newPlace(place{checkout: t.TempDir(), out: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(other.checkout, ".cache")
	if err := os.Mkdir(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := realclean(ctx, other); !errors.Is(err, errInUse) || !strings.Contains(err.Error(), "assay lab cluster down") {
		t.Errorf("with a cluster in the cache: %v", err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("a refused realclean has removed something: %v", err)
	}
	if err := os.Remove(up); err != nil {
		t.Fatal(err)
	}
	if err := realclean(ctx, other); err != nil {
		t.Error(err)
	}
	for _, folder := range []string{filepath.Join(base, "assay"), kept} {
		if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("realclean left %s: %v", folder, err)
		}
	}
}

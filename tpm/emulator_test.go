package tpm

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/internal/swtpm"
)

// vendor manufactures one TPM for the whole run; each test runs a copy of it, so that all share keys and certificates but no state.
type vendor struct {
	dir         string
	manufacture func() error
}

var lab vendor

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		panic(err)
	}
	lab = vendor{dir: dir, manufacture: sync.OnceValue(func() error {
		return swtpm.Manufacture(context.Background(), swtpm.Options{StateDir: filepath.Join(dir, "tpm"), CADir: filepath.Join(dir, "ca")})
	})}
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		panic(err)
	}
	os.Exit(code)
}

// manufactured returns a fresh copy of the lab's TPM.
func manufactured(t testing.TB) string {
	t.Helper()
	need.Swtpm(t)
	if err := lab.manufacture(); err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(lab.dir, "tpm"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// shortDir makes a directory that leaves room for a socket's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(lab.dir, "m")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func emulator(t testing.TB, stateDir string) *swtpm.Emulator {
	t.Helper()
	e, err := swtpm.Start(context.Background(), swtpm.Config{StateDir: stateDir})
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

func opened(t testing.TB, e *swtpm.Emulator) *TPM {
	t.Helper()
	device, err := Open(socketPrefix + e.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := device.Close(); err != nil {
			t.Error(err)
		}
	})
	return device
}

func newTPM(t testing.TB) *TPM {
	t.Helper()
	return opened(t, emulator(t, manufactured(t)))
}

func newAK(t testing.TB, device *TPM, kinds Kinds) AK {
	t.Helper()
	ak, err := device.CreateAK(kinds)
	if err != nil {
		t.Fatal(err)
	}
	return ak
}

func labRoots(t testing.TB) *endorsement.Roots {
	t.Helper()
	authorities, err := swtpm.Authorities(filepath.Join(lab.dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	roots := endorsement.NewRoots()
	if _, err := roots.AddPEM(authorities); err != nil {
		t.Fatal(err)
	}
	return roots
}

// meddler is a device between a test and its TPM: after acts when a command of that code has been answered.
type meddler struct {
	transport.TPMCloser
	after func(code uint32)
}

func (m *meddler) Send(command []byte) ([]byte, error) {
	answer, err := m.TPMCloser.Send(command)
	m.after(uint32(command[6])<<24 | uint32(command[7])<<16 | uint32(command[8])<<8 | uint32(command[9]))
	return answer, err
}

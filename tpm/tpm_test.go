package tpm

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/internal/swtpm"
)

func TestInfo(t *testing.T) {
	device := newTPM(t)
	info, err := device.Info()
	if err != nil {
		t.Fatal(err)
	}
	if info.Firmware == 0 {
		t.Error("no firmware version")
	}
	info.Firmware = 0
	if diff := cmp.Diff(Info{Manufacturer: "IBM", Vendor: "SW   TPM"}, info); diff != "" {
		t.Error(diff)
	}
	banks, err := device.Banks()
	if diff := cmp.Diff(attest.Hashes(), banks); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

func TestReadClock(t *testing.T) {
	e := emulator(t, manufactured(t))
	device := opened(t, e)
	before, err := device.ReadClock()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Cycle(t.Context(), swtpm.Reboot); err != nil {
		t.Fatal(err)
	}
	after, err := device.ReadClock()
	if err != nil || after.ResetCount != before.ResetCount+1 || after.Clock < before.Clock {
		t.Errorf("%v, then %v (%v)", before, after, err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(dir, "dead")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{
		filepath.Join(dir, "missing"): ErrNoTPM,
		file:                          ErrNoTPM,
		dead:                          ErrNoTPM,
		socketPrefix + dead:           ErrNoTPM,
		socketPrefix + "/dev/null":    ErrNoTPM,
	} {
		if _, err := Open(name); !errors.Is(err, want) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, expected %v", name, err, want)
		}
	}
	if _, err := Open("/dev/null"); err == nil {
		t.Error("/dev/null is no TPM")
	}
	for cause, want := range map[error]error{
		&fs.PathError{Op: "open", Path: rawDevice, Err: syscall.EACCES}: ErrNoRight,
		&fs.PathError{Op: "open", Path: rawDevice, Err: syscall.ENODEV}: ErrNoTPM,
		&fs.PathError{Op: "open", Path: rawDevice, Err: syscall.EBUSY}:  syscall.EBUSY,
		tpm2.TPMRCInitialize: ErrNoTPM,
	} {
		if err := openError(rawDevice, cause); !errors.Is(err, want) || !errors.Is(err, cause) {
			t.Errorf("%v: %v, expected %v", cause, err, want)
		}
	}
}

// A server that speaks another protocol is no TPM.
func TestOpenSomethingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("220 mail.example ESMTP\r\n"))
			_ = conn.Close()
		}
	}()
	if _, err := Open(path); err == nil {
		t.Error("a mail server passed as TPM")
	}
}

// tripLockout uses a key under dictionary-attack protection with wrong passwords until the TPM refuses all of them, and returns that refusal.
func tripLockout(t *testing.T, device *TPM) error {
	t.Helper()
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	template := tpm2.ECCSRKTemplate
	template.ObjectAttributes.NoDA = false
	primary, err := tpm2.CreatePrimary{
		PrimaryHandle: owner,
		InSensitive:   tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("right")}}},
		InPublic:      tpm2.New2B(template),
	}.Execute(device.device)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := device.flush(primary.ObjectHandle); err != nil {
			t.Error(err)
		}
	}()
	parent := tpm2.AuthHandle{Handle: primary.ObjectHandle, Name: primary.Name, Auth: tpm2.PasswordAuth([]byte("wrong"))}
	child, err := akTemplate(ECC256)
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		if _, err = (tpm2.Create{ParentHandle: parent, InPublic: tpm2.New2B(child)}).Execute(device.device); errors.Is(err, tpm2.TPMRCLockout) {
			return err
		}
		if explained := explain("use a key", err); !errors.Is(explained, ErrNoRight) {
			t.Fatalf("%v, expected ErrNoRight", explained)
		}
	}
	t.Fatalf("no lockout after 40 wrong passwords: %v", err)
	return nil
}

// A TPM in lockout says so in words, and still attests: somebody else's wrong passwords are no reason to lose sight of a node.
func TestLockout(t *testing.T) {
	e := emulator(t, manufactured(t))
	device := opened(t, e)
	ak := newAK(t, device, Kinds{})
	if err := explain("use a key", tripLockout(t, device)); !errors.Is(err, ErrLockout) || !strings.Contains(err.Error(), "tpm2_dictionarylockout") {
		t.Errorf("%v, expected ErrLockout with what helps", err)
	}
	if info, err := device.Info(); err != nil || !info.InLockout {
		t.Errorf("%+v %v, expected a lockout", info, err)
	}
	if _, err := device.EK(RSA2048); err != nil {
		t.Error(err)
	}
	if _, err := device.LoadAK(ak.Blob()); err != nil {
		t.Error(err)
	}
	quoted(t, device, QuoteRequest{AK: ak, Nonce: []byte("nonce"), Selection: pcr.Select(attest.SHA256, 10)})
	if err := e.ClearLockout(); err != nil {
		t.Fatal(err)
	}
	if info, err := device.Info(); err != nil || info.InLockout {
		t.Errorf("%+v %v, expected the lockout to be over", info, err)
	}
}

// Quotes with different transport keys at the same time do not see each other's PCR 16.
func TestConcurrentQuotes(t *testing.T) {
	device := newTPM(t)
	ak := newAK(t, device, Kinds{AK: ECC256})
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			key := []byte{byte(i)}
			raw, err := device.Quote(QuoteRequest{AK: ak, Nonce: key, Selection: pcr.Select(attest.SHA256), TransportKey: key})
			if err != nil {
				t.Error(err)
				return
			}
			if want := bound(attest.SHA256, key).Bytes(); string(raw.Digests[0]) != string(want) {
				t.Errorf("round %d: PCR 16 is %x, expected %x", i, raw.Digests[0], want)
			}
		})
	}
	wait.Wait()
}

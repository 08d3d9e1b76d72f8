// Package tpm opens a TPM 2.0 and does with it what an agent needs: endorsement keys with their certificates, an attestation key, quotes, activation
// of a credential, proof of possession. It is the only package that opens a TPM.
//
// It trusts the TPM that it opened and the kernel or socket in between; what it returns is a claim to everybody else. Judging keys is left to package
// endorsement, judging quotes to evidence/quote, keeping the attestation key's blob to the caller.
//
// A TPM has few slots for loaded keys (three in most) and a device without resource manager shares them, so at most two are held here: the
// attestation key, kept between quotes, and an endorsement key for as long as one call. The endorsement hierarchy's
// password is empty unless SetEndorsementAuth says otherwise.
package tpm

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// The names that Open tries when it is given none: the kernel's resource manager, then the TPM itself, which one program can open at a time.
const (
	managedDevice = "/dev/tpmrm0"
	rawDevice     = "/dev/tpm0"
)

// socketPrefix marks the command socket of an emulator.
const socketPrefix = "swtpm:"

// What a caller may tell apart. Errors that wrap them say what was being done and what helps.
var (
	// ErrNoTPM: there is no TPM 2.0 under that name.
	ErrNoTPM = errors.New("no TPM 2.0")
	// ErrNoRight: this user may not open the TPM, or a hierarchy of it has a password.
	ErrNoRight = errors.New("no right to the TPM")
	// ErrEndorsementAuth: the endorsement hierarchy has another password than the one that was given, or than none. Errors that wrap it wrap ErrNoRight too.
	ErrEndorsementAuth = errors.New("the endorsement hierarchy has another password")
	// ErrLockout: the TPM refuses for now, after wrong passwords or power cuts (TPM 2.0 Part 1, "Dictionary Attack Protection").
	ErrLockout = errors.New("the TPM is in lockout")
	// ErrForeignAK: the blob of an attestation key was not made under this TPM's endorsement key as it is now: the TPM was cleared, or the blob is
	// another machine's.
	ErrForeignAK = errors.New("the attestation key does not belong to this TPM, or the TPM was cleared")
	// ErrBank: the PCR bank is not active.
	ErrBank = errors.New("PCR bank is not active")
)

// TPM is an open TPM. It is safe for concurrent use; each method holds the TPM until it is done, so that nothing of ours changes a PCR during a quote.
type TPM struct {
	mu     sync.Mutex
	device transport.TPMCloser
	loaded loadedAK
	// endorsementAuth authorises every use of an endorsement key: deriving it, and as its policy demands, loading under it and activation.
	endorsementAuth []byte
}

// MaxAuthBytes is the longest password of a hierarchy that a TPM may take: a digest of SHA-512.
const MaxAuthBytes = 64

// SetEndorsementAuth gives the password of the endorsement hierarchy, for all that follows. A wrong one shows at the first use as ErrEndorsementAuth; it
// is not under dictionary-attack protection (TPM 2.0 Part 1, "Dictionary Attack Protection"). It passes to the TPM in the clear, as do its other commands.
func (t *TPM) SetEndorsementAuth(password []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endorsementAuth = bytes.Clone(password)
}

// endorsement is the hierarchy with its password. The caller holds the lock.
func (t *TPM) endorsement() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(t.endorsementAuth)}
}

// Open opens a TPM: a device ("/dev/tpmrm0"), or the command socket of an emulator ("swtpm:/path" or the path alone). The empty name means
// /dev/tpmrm0 and, where that is missing, /dev/tpm0.
func Open(name string) (*TPM, error) {
	if name != "" {
		return open(name)
	}
	t, err := open(managedDevice)
	if errors.Is(err, ErrNoTPM) {
		if raw, rawErr := open(rawDevice); !errors.Is(rawErr, ErrNoTPM) {
			return raw, rawErr
		}
	}
	return t, err
}

func open(name string) (*TPM, error) {
	path, isSocket := strings.CutPrefix(name, socketPrefix)
	info, err := os.Stat(path)
	if err != nil {
		return nil, openError(name, err)
	}
	var device transport.TPMCloser
	switch {
	case info.Mode()&fs.ModeSocket != 0:
		device, err = linuxudstpm.Open(path)
	case info.Mode()&fs.ModeDevice != 0 && !isSocket:
		device, err = linuxtpm.Open(path)
	default:
		return nil, fmt.Errorf("open TPM %s: %w: it is neither a device nor a socket", name, ErrNoTPM)
	}
	if err != nil {
		return nil, openError(name, err)
	}
	t := &TPM{device: device}
	if err := t.probe(); err != nil {
		return nil, errors.Join(openError(name, err), device.Close())
	}
	return t, nil
}

// probe asks for the TPM's family, which a TPM 1.2 and anything else that took the command answer wrongly.
func (t *TPM) probe() error {
	family, err := t.property(tpm2.TPMPTFamilyIndicator)
	if err != nil {
		return err
	}
	if text := ascii(family); text != "2.0" {
		return fmt.Errorf("%w: its family is %q", ErrNoTPM, text)
	}
	return nil
}

func openError(name string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("open TPM %s: %w: %w (is it enabled in the firmware, is the emulator running?)", name, ErrNoTPM, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("open TPM %s: %w: %w (start as root, or join the group tss)", name, ErrNoRight, err)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("open TPM %s: %w (another program holds it; use %s)", name, err, managedDevice)
	case errors.Is(err, tpm2.TPMRCInitialize):
		return fmt.Errorf("open TPM %s: %w: the firmware has not started it up: %w", name, ErrNoTPM, err)
	}
	return fmt.Errorf("open TPM %s: %w", name, err)
}

// Close flushes the attestation key and closes the TPM.
func (t *TPM) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	flushed := t.unload()
	if err := errors.Join(flushed, t.device.Close()); err != nil {
		return fmt.Errorf("close TPM: %w", err)
	}
	return nil
}

// explain adds what was being done to an error, and the sentinel that it stands for.
func explain(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, tpm2.TPMRCLockout):
		return fmt.Errorf("%s: %w: %w (wait, or run tpm2_dictionarylockout -c with the lockout password)", doing, ErrLockout, err)
	case errors.Is(err, ErrEndorsementAuth):
		return fmt.Errorf("%s: %w: %w", doing, ErrNoRight, err)
	case errors.Is(err, tpm2.TPMRCBadAuth), errors.Is(err, tpm2.TPMRCAuthFail):
		return fmt.Errorf("%s: %w: a hierarchy or key has a password: %w", doing, ErrNoRight, err)
	case errors.Is(err, tpm2.TPMRCObjectMemory):
		return fmt.Errorf("%s: other programs fill all key slots: %w (use %s)", doing, err, managedDevice)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// flush frees the slot of a transient object.
func (t *TPM) flush(handle tpm2.TPMHandle) error {
	if _, err := (tpm2.FlushContext{FlushHandle: handle}).Execute(t.device); err != nil {
		return fmt.Errorf("flush handle %#x: %w", uint32(handle), err)
	}
	return nil
}

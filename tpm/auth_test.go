package tpm

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/pcr"
)

// setPassword gives the endorsement hierarchy its first password.
func setPassword(t *testing.T, device *TPM, password string) {
	t.Helper()
	_, err := tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		NewAuth:    tpm2.TPM2BAuth{Buffer: []byte(password)},
	}.Execute(device.device)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := device.Info(); err != nil || !info.EndorsementPassword {
		t.Fatalf("%+v %v, expected a password", info, err)
	}
}

// With its password everything works that works without one: the keys are the same, and whoever had an AK keeps it.
func TestEndorsementAuth(t *testing.T) {
	for _, kinds := range []Kinds{{EK: RSA2048, AK: ECC256}, {EK: ECC384, AK: RSA2048}} {
		t.Run(string(kinds.EK), func(t *testing.T) {
			device := newTPM(t)
			before, _ := parsedEK(t, device, kinds.EK)
			old := newAK(t, device, kinds)
			setPassword(t, device, "secret")
			device.SetEndorsementAuth([]byte("secret"))
			after, _ := parsedEK(t, device, kinds.EK)
			if before.ID() != after.ID() {
				t.Errorf("the EK was %s and is %s", before.ID(), after.ID())
			}
			loaded, err := device.LoadAK(old.Blob())
			if err != nil {
				t.Fatal(err)
			}
			for _, ak := range []AK{loaded, newAK(t, device, kinds)} {
				want := []byte("cePe0EB34vqW9wFKLBWhF3agLoZH9Ejh")
				credential, err := endorsement.MakeCredential(rand.Reader, after, ak.Key().Name(), want)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := device.ActivateCredential(ak, credential); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%q, %v, expected %q", got, err, want)
				}
				quoted(t, device, QuoteRequest{AK: ak, Nonce: []byte("nonce"), Selection: pcr.Select(attest.SHA256, 10)})
			}
		})
	}
}

// Without the password or with a wrong one every use of the EK says so, an AK is not taken for a foreign one, and no number of attempts brings
// the TPM nearer to a lockout.
func TestEndorsementAuthWrong(t *testing.T) {
	device := newTPM(t)
	ak := newAK(t, device, Kinds{})
	ek, _ := parsedEK(t, device, RSA2048)
	credential, err := endorsement.MakeCredential(rand.Reader, ek, ak.Key().Name(), []byte("secret of the registrar"))
	if err != nil {
		t.Fatal(err)
	}
	setPassword(t, device, "secret")
	uses := map[string]func() error{
		"EK":       func() error { _, err := device.EK(RSA2048); return err },
		"new AK":   func() error { _, err := device.CreateAK(Kinds{}); return err },
		"load AK":  func() error { _, err := device.LoadAK(ak.Blob()); return err },
		"activate": func() error { _, err := device.ActivateCredential(ak, credential); return err },
	}
	for given, part := range map[string]string{"": "than the empty one", "wrong": "than the one that was given", "secrets": "given", "secre": "given"} {
		device.SetEndorsementAuth([]byte(given))
		for name, use := range uses {
			err := use()
			if !errors.Is(err, ErrEndorsementAuth) || !errors.Is(err, ErrNoRight) || errors.Is(err, ErrForeignAK) {
				t.Errorf("%s with %q: %v, expected ErrEndorsementAuth", name, given, err)
				continue
			}
			if !strings.Contains(err.Error(), part) || given != "" && strings.Contains(err.Error(), given) {
				t.Errorf("%s with %q: %v", name, given, err)
			}
		}
	}
	for range 40 {
		_, _ = device.EK(RSA2048) // fails, as above
	}
	attempts, err := device.property(tpm2.TPMPTLockoutCounter)
	if err != nil || attempts != 0 {
		t.Errorf("%d attempts are counted (%v), expected none", attempts, err)
	}
	device.SetEndorsementAuth([]byte("secret"))
	for name, use := range uses {
		if err := use(); err != nil {
			t.Errorf("%s with the right one: %v", name, err)
		}
	}
}

// The password is copied: who wipes their own does not change it.
func TestSetEndorsementAuthCopies(t *testing.T) {
	device := newTPM(t)
	password := []byte("secret")
	device.SetEndorsementAuth(password)
	clear(password)
	if diff := cmp.Diff([]byte("secret"), device.endorsementAuth); diff != "" {
		t.Error(diff)
	}
}

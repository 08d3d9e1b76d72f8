package tpm

import (
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/internal/swtpm"
)

func TestCreateAK(t *testing.T) {
	device := newTPM(t)
	for _, row := range []struct {
		kinds  Kinds
		keyAlg string
		scheme endorsement.SignAlgorithm
	}{
		{Kinds{}, "rsa2048", endorsement.RSASSA},
		{Kinds{AK: ECC256}, "ecc256", endorsement.ECDSA},
		{Kinds{EK: ECC384, AK: RSA2048}, "rsa2048", endorsement.RSASSA},
	} {
		ak := newAK(t, device, row.kinds)
		scheme, hash := ak.Key().Scheme()
		if ak.Key().KeyAlgorithm() != row.keyAlg || scheme != row.scheme || hash != attest.SHA256 {
			t.Errorf("%+v: %s, %s with %s", row.kinds, ak.Key().KeyAlgorithm(), scheme, hash)
		}
		area, err := tpm2.Unmarshal[tpm2.TPMTPublic](ak.Blob().Public[2:])
		if err != nil || !area.ObjectAttributes.NoDA {
			t.Errorf("%+v: the key is under dictionary-attack protection: %v", row.kinds, err)
		}
	}
}

// The blob is all that an agent keeps: after a restart of agent and machine it gives the same key.
func TestLoadAK(t *testing.T) {
	e := emulator(t, manufactured(t))
	for _, kinds := range []Kinds{{}, {EK: ECC384, AK: ECC256}} {
		first := opened(t, e)
		blob := newAK(t, first, kinds).Blob()
		if err := e.Cycle(t.Context(), swtpm.Reboot); err != nil {
			t.Fatal(err)
		}
		second := opened(t, e)
		ak, err := second.LoadAK(blob)
		if err != nil {
			t.Fatal(err)
		}
		certified(t, second, ak)
	}
}

// Nothing of another TPM, of this one before it was cleared, or of a damaged file gives a key; the caller can tell all of these from a TPM that
// does not answer.
func TestForeignAK(t *testing.T) {
	device := newTPM(t)
	blob := newAK(t, device, Kinds{AK: ECC256}).Blob()
	if _, err := device.LoadAK(blob); err != nil {
		t.Fatal(err)
	}
	damaged := blob
	damaged.Private = append([]byte(nil), blob.Private...)
	damaged.Private[len(damaged.Private)-1] ^= 1
	swapped := blob
	swapped.Public = newAK(t, device, Kinds{AK: ECC256}).Blob().Public
	otherParent := blob
	otherParent.EK = ECC256
	short := blob
	short.Private = blob.Private[:10]
	noPublic := blob
	noPublic.Public = nil
	for name, foreign := range map[string]Blob{
		"zero": {}, "damaged": damaged, "public part of another": swapped, "other parent": otherParent, "cut off": short, "no public part": noPublic,
	} {
		if _, err := device.LoadAK(foreign); !errors.Is(err, ErrForeignAK) {
			t.Errorf("%s: %v, expected ErrForeignAK", name, err)
		}
	}
	if _, err := device.LoadAK(blob); err != nil {
		t.Errorf("the key itself, afterwards: %v", err)
	}
}

func TestForeignAKAfterClear(t *testing.T) {
	device := newTPM(t)
	blob := newAK(t, device, Kinds{}).Blob()
	lockout := tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}
	if _, err := (tpm2.Clear{AuthHandle: lockout}).Execute(device.device); err != nil {
		t.Fatal(err)
	}
	if _, err := device.LoadAK(blob); !errors.Is(err, ErrForeignAK) {
		t.Errorf("%v, expected ErrForeignAK", err)
	}
	certified(t, device, newAK(t, device, Kinds{}))
}

func TestForeignAKOfAnotherTPM(t *testing.T) {
	blob := newAK(t, newTPM(t), Kinds{}).Blob()
	dir := shortDir(t)
	if err := swtpm.Manufacture(t.Context(), swtpm.Options{StateDir: dir, CADir: dir + "/ca"}); err != nil {
		t.Fatal(err)
	}
	if _, err := opened(t, emulator(t, dir)).LoadAK(blob); !errors.Is(err, ErrForeignAK) {
		t.Errorf("%v, expected ErrForeignAK", err)
	}
}

func TestZeroAK(t *testing.T) {
	device := newTPM(t)
	if _, err := device.Certify(AK{}, nil); err == nil {
		t.Error("certified with no key")
	}
	if _, err := device.Quote(QuoteRequest{Selection: pcr.Select(attest.SHA256, 10)}); err == nil {
		t.Error("quoted with no key")
	}
	if _, err := device.ActivateCredential(AK{}, endorsement.Credential{}); err == nil {
		t.Error("activated with no key")
	}
}

// Any number of keys may be in use, one after the other, and loading leaves no slot behind.
func TestSlots(t *testing.T) {
	device := newTPM(t)
	var keys []AK
	for range 5 {
		keys = append(keys, newAK(t, device, Kinds{AK: ECC256}))
	}
	for range 2 {
		for _, ak := range keys {
			certified(t, device, ak)
		}
	}
	handles, err := device.indices(0x80000000, 0x80ffffff)
	if err != nil || len(handles) != 1 {
		t.Errorf("loaded objects %x, %v: expected the one attestation key", handles, err)
	}
	if err := device.unload(); err != nil {
		t.Error(err)
	}
	if handles, err := device.indices(0x80000000, 0x80ffffff); err != nil || len(handles) != 0 {
		t.Errorf("loaded objects %x, %v: expected none", handles, err)
	}
}

// certified proves possession of ak and checks the proof.
func certified(t *testing.T, device *TPM, ak AK) {
	t.Helper()
	qualifying := attest.SHA256.Sum([]byte("assay.agent.v1")).Bytes()
	proof, err := device.Certify(ak, qualifying)
	if err != nil {
		t.Fatal(err)
	}
	if err := endorsement.VerifyCertify(ak.Key(), proof.Attest, proof.Signature, qualifying); err != nil {
		t.Error(err)
	}
	if err := endorsement.VerifyCertify(ak.Key(), proof.Attest, proof.Signature, qualifying[1:]); !errors.Is(err, endorsement.ErrNotProven) {
		t.Errorf("other challenge: %v, expected ErrNotProven", err)
	}
}

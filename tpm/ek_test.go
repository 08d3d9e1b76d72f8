package tpm

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/internal/swtpm"
)

func kinds() []Algorithm { return []Algorithm{RSA2048, RSA3072, ECC256, ECC384} }

func parsedEK(t testing.TB, device *TPM, alg Algorithm) (endorsement.EK, EK) {
	t.Helper()
	raw, err := device.EK(alg)
	if err != nil {
		t.Fatal(err)
	}
	ek, err := endorsement.ParseEK(raw.Public)
	if err != nil {
		t.Fatal(err)
	}
	if ek.KeyAlgorithm() != string(alg) {
		t.Fatalf("the key is %s, not %s", ek.KeyAlgorithm(), alg)
	}
	return ek, raw
}

// A credential of ours is opened by the TPM with the EK and the AK it was made for, whatever the kind of either.
func TestActivateCredential(t *testing.T) {
	device := newTPM(t)
	for _, alg := range kinds() {
		for _, akAlg := range []Algorithm{RSA2048, ECC256} {
			t.Run(string(alg)+" "+string(akAlg), func(t *testing.T) {
				ek, _ := parsedEK(t, device, alg)
				ak, other := newAK(t, device, Kinds{EK: alg, AK: akAlg}), newAK(t, device, Kinds{EK: alg, AK: ECC256})
				want := []byte("cePe0EB34vqW9wFKLBWhF3agLoZH9Ejh")
				credential, err := endorsement.MakeCredential(rand.Reader, ek, ak.Key().Name(), want)
				if err != nil {
					t.Fatal(err)
				}
				got, err := device.ActivateCredential(ak, credential)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%q, %v, expected %q", got, err, want)
				}
				if got, err := device.ActivateCredential(other, credential); err == nil {
					t.Errorf("another AK opened it: %q", got)
				}
			})
		}
	}
}

func TestEKCertificate(t *testing.T) {
	device := newTPM(t)
	roots := labRoots(t)
	for alg, certified := range map[Algorithm]bool{RSA2048: true, ECC384: true, ECC256: false, RSA3072: false} {
		ek, raw := parsedEK(t, device, alg)
		got, failures := roots.Check(ek, raw.Chain, time.Now())
		if certified && (failures != nil || got.Root != "CN=swtpm-localca-rootca") {
			t.Errorf("%s: %+v %v", alg, got, failures)
		}
		if !certified && (len(raw.Chain) != 0 || len(failures) != 1 || failures[0].ID != attest.EkNotEndorsed) {
			t.Errorf("%s: %d certificates, %v, expected none and EkNotEndorsed", alg, len(raw.Chain), failures)
		}
	}
	ecc, _ := parsedEK(t, device, ECC256)
	_, rsa := parsedEK(t, device, RSA2048)
	if _, failures := roots.Check(ecc, rsa.Chain, time.Now()); len(failures) != 1 || failures[0].ID != attest.EkNotEndorsed {
		t.Errorf("the certificate of another key: %v", failures)
	}
}

func TestEKCertificateRSA3072(t *testing.T) {
	manufactured(t) // the CA
	dir := filepath.Join(lab.dir, "rsa3072")
	if err := swtpm.Manufacture(t.Context(), swtpm.Options{StateDir: dir, CADir: filepath.Join(lab.dir, "ca"), RSABits: 3072}); err != nil {
		t.Fatal(err)
	}
	ek, raw := parsedEK(t, opened(t, emulator(t, dir)), RSA3072)
	if _, failures := labRoots(t).Check(ek, raw.Chain, time.Now()); failures != nil {
		t.Error(failures)
	}
}

// The key is derived, so it is the same after a reboot.
func TestEKIsStable(t *testing.T) {
	e := emulator(t, manufactured(t))
	device := opened(t, e)
	before, err := device.EK(RSA2048)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Cycle(t.Context(), swtpm.Reboot); err != nil {
		t.Fatal(err)
	}
	after, err := device.EK(RSA2048)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
}

func TestUnknownKind(t *testing.T) {
	device := newTPM(t)
	if _, err := device.EK("rsa1024"); err == nil || !strings.Contains(err.Error(), "known are rsa2048") {
		t.Errorf("%v, expected what is known", err)
	}
	if _, err := device.CreateAK(Kinds{EK: "sm2"}); err == nil || !strings.Contains(err.Error(), `"sm2"`) {
		t.Errorf("%v, expected the kind in question", err)
	}
	if _, err := device.CreateAK(Kinds{AK: ECC384}); err == nil || !strings.Contains(err.Error(), "known are rsa2048, ecc256") {
		t.Errorf("%v, expected what is known", err)
	}
}

// PolicyA for SHA-256 and PolicyB for SHA-384 as the EK Credential Profile prints them (annex B.3.3 and B.6).
func TestTemplatePolicies(t *testing.T) {
	for alg, want := range map[Algorithm]string{
		RSA2048: "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa",
		ECC384:  "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12",
	} {
		kind, err := kindOf(alg)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(kind.policy()); got != want {
			t.Errorf("%s: %s, expected %s", alg, got, want)
		}
	}
	rsa, _ := kindOf(RSA2048)
	if got := tpm2.Marshal(rsa.template()); !bytes.Equal(got, tpm2.Marshal(tpm2.RSAEKTemplate)) {
		t.Errorf("template L-1 is %x", got)
	}
	ecc, _ := kindOf(ECC256)
	if got := tpm2.Marshal(ecc.template()); !bytes.Equal(got, tpm2.Marshal(tpm2.ECCEKTemplate)) {
		t.Errorf("template L-2 is %x", got)
	}
}

func TestSplit(t *testing.T) {
	cert := func(fill byte) []byte { return append([]byte{0x30, 0x82, 1, 0}, bytes.Repeat([]byte{fill}, 256)...) }
	a, b := cert(1), cert(2)
	for _, row := range []struct {
		name string
		area []byte
		want [][]byte
	}{
		{"nothing", nil, nil},
		{"one", a, [][]byte{a}},
		{"two and zeros", bytes.Join([][]byte{a, b, make([]byte, 40)}, nil), [][]byte{a, b}},
		{"one and ones", append(bytes.Clone(a), bytes.Repeat([]byte{0xff}, 9)...), [][]byte{a}},
		{"cut off", a[:200], nil},
		{"no certificate", []byte("hello"), nil},
	} {
		if diff := cmp.Diff(row.want, split(row.area)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.name, diff)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add(append([]byte{0x30, 0x82, 0, 1, 7}, 0, 0))
	f.Fuzz(func(t *testing.T, area []byte) {
		if joined := bytes.Join(split(area), nil); !bytes.HasPrefix(area, joined) {
			t.Fatalf("%x is no prefix of %x", joined, area)
		}
	})
}

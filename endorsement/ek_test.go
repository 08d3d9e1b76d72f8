package endorsement

import (
	"bytes"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

func realEK(t testing.TB) EK {
	t.Helper()
	ek, err := ParseEK(testdata(t, "ek.pub"))
	if err != nil {
		t.Fatal(err)
	}
	return ek
}

func TestParseEK(t *testing.T) {
	ek := realEK(t)
	if !ek.Valid() || ek.KeyAlgorithm() != "rsa2048" || !bytes.Equal(ek.Public(), testdata(t, "ek.pub")) {
		t.Errorf("valid %v, %s, or other bytes than were parsed", ek.Valid(), ek.KeyAlgorithm())
	}
	// openssl pkey -pubin -outform PEM | sha256sum, over the same key
	if got, want := string(ek.ID()), "ed04dde9ab24b90c6a945e60446ab601cac4d873886ab686fe949268137e4a3e"; got != want {
		t.Errorf("id %s, expected %s", got, want)
	}
}

func TestParseEKRefuses(t *testing.T) {
	attributes := func(change func(*tpm2.TPMAObject)) func(*tpm2.TPMTPublic) {
		return func(area *tpm2.TPMTPublic) { change(&area.ObjectAttributes) }
	}
	for want, change := range map[string]func(*tpm2.TPMTPublic){
		"not a restricted decryption key that was made in its TPM and is fixed to it": attributes(func(a *tpm2.TPMAObject) { a.FixedTPM = false }),
		"not a restricted decryption key":                                             attributes(func(a *tpm2.TPMAObject) { a.Decrypt, a.SignEncrypt = false, true }),
		"made in its TPM":                                                             attributes(func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false }),
		"name algorithm sha1":                                                         func(area *tpm2.TPMTPublic) { area.NameAlg = tpm2.TPMAlgSHA1 },
		"symmetric algorithm 0x0010": func(area *tpm2.TPMTPublic) {
			rsaParams(t, area, func(p *tpm2.TPMSRSAParms) { p.Symmetric = tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull} })
		},
		"exponent is 17": func(area *tpm2.TPMTPublic) {
			rsaParams(t, area, func(p *tpm2.TPMSRSAParms) { p.Exponent = 17 })
		},
	} {
		ek, err := ParseEK(changed(t, "ek.pub", change))
		if err == nil || !strings.Contains(err.Error(), want) || ek.Valid() {
			t.Errorf("%v, expected an error with %q", err, want)
		}
	}
	if _, err := ParseEK(testdata(t, "ak.pub")); err == nil {
		t.Error("an attestation key passed as endorsement key")
	}
}

func TestMakeCredentialShape(t *testing.T) {
	secret := []byte("cePe0EB34vqW9wFKLBWhF3agLoZH9Ejh")
	credential, err := MakeCredential(rand.Reader, realEK(t), testdata(t, "ak.name"), secret)
	if err != nil {
		t.Fatal(err)
	}
	// hmac and encrypted TPM2B_DIGEST, each with its size; an RSA-2048 ciphertext: what Keylime's registrar makes for the same keys.
	if len(credential.IDObject) != 0x44 || len(credential.Secret) != 0x100 {
		t.Errorf("%d and %d bytes, expected %d and %d", len(credential.IDObject), len(credential.Secret), 0x44, 0x100)
	}
	if bytes.Contains(credential.IDObject, secret) {
		t.Error("the secret is in clear")
	}
}

func TestMakeCredentialRefuses(t *testing.T) {
	ek, name := realEK(t), testdata(t, "ak.name")
	for what, try := range map[string]func() error{
		"no key":      func() error { _, err := MakeCredential(rand.Reader, EK{}, name, []byte("secret")); return err },
		"no name":     func() error { _, err := MakeCredential(rand.Reader, ek, nil, []byte("secret")); return err },
		"no secret":   func() error { _, err := MakeCredential(rand.Reader, ek, name, nil); return err },
		"long secret": func() error { _, err := MakeCredential(rand.Reader, ek, name, make([]byte, 33)); return err },
		"short random": func() error {
			_, err := MakeCredential(strings.NewReader("few"), ek, name, []byte("secret"))
			return err
		},
	} {
		if try() == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func FuzzParseEK(f *testing.F) {
	f.Add(testdata(f, "ek.pub"))
	f.Add(testdata(f, "ak.pub"))
	f.Fuzz(func(t *testing.T, public []byte) {
		ek, err := ParseEK(public)
		if ek.Valid() != (err == nil) {
			t.Fatalf("valid %v with %v", ek.Valid(), err)
		}
		if err == nil {
			_, _ = MakeCredential(rand.Reader, ek, []byte{0, 0x0b, 1, 2, 3}, []byte("secret")) // it may refuse, it may not panic
		}
	})
}

// Without both keys there is no name, so that nothing is ever equal to it by chance.
func TestQualifiedChildNeedsBothKeys(t *testing.T) {
	ek := realEK(t)
	ak, _, err := ParseAK(testdata(t, "ak.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if got := ek.QualifiedChild(ak); len(got) != 34 {
		t.Errorf("qualified name %x", got)
	}
	if (EK{}).QualifiedChild(ak) != nil || ek.QualifiedChild(AK{}) != nil {
		t.Error("a key that is none has a name")
	}
}

package appraisal

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// testKey is a public key that nobody can sign with in earnest, as a kernel takes it into a keyring: P-256 and its base point.
const testKey = "\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04" +
	"\x6b\x17\xd1\xf2\xe1\x2c\x42\x47\xf8\xbc\xe6\xe5\x63\xa4\x40\xf2\x77\x03\x7d\x81\x2d\xeb\x33\xa0\xf4\xa1\x39\x45\xd8\x98\xc2\x96" +
	"\x4f\xe3\x42\xe2\xfe\x1a\x7f\x9b\x8e\xe7\xeb\x4a\x7c\x0f\x9e\x16\x2b\xce\x33\x57\x6b\x31\x5e\xce\xcb\xb6\x40\x68\x37\xbf\x51\xf5"

// fileKey signs files as evmctl does.
type fileKey struct {
	signer crypto.Signer
	der    []byte
	id     uint32
}

func newFileKeys(t testing.TB) map[string]fileKey {
	t.Helper()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]fileKey{}
	for name, signer := range map[string]crypto.Signer{"RSA": rsaKey, "ECDSA": ecKey} {
		der, err := x509.MarshalPKIXPublicKey(signer.Public())
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := policy.ParseKey(der)
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = fileKey{signer, der, parsed.ID}
	}
	return keys
}

func (k fileKey) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.der}))
}

// sign makes the value of security.ima.
func (k fileKey) sign(t testing.TB, d attest.Digest) []byte {
	t.Helper()
	signature, err := k.signer.Sign(rand.Reader, d.Bytes(), d.Hash().Crypto())
	if err != nil {
		t.Fatal(err)
	}
	number := map[attest.Hash]byte{attest.SHA1: 2, attest.SHA256: 4, attest.SHA384: 5, attest.SHA512: 6}[d.Hash()]
	out := binary.BigEndian.AppendUint32([]byte{3, 2, number}, k.id)
	out = binary.BigEndian.AppendUint16(out, uint16(len(signature)))
	return append(out, signature...)
}

func signedFile(name, text string, signature []byte) measurement {
	m := file(name, text)
	m.template, m.tail = "ima-sig", signature
	return m
}

func TestFileSignatures(t *testing.T) {
	for name, key := range newFileKeys(t) {
		good := key.sign(t, content("new"))
		edited := func(edit func([]byte)) []byte {
			b := append([]byte(nil), good...)
			edit(b)
			return b
		}
		invalid, mismatch, unlisted := []attest.FailureID{attest.FileSignatureInvalid}, []attest.FailureID{attest.FileDigestMismatch}, []attest.FailureID{attest.FileNotInPolicy}
		for _, test := range []struct {
			name  string
			entry measurement
			want  []attest.FailureID
		}{
			{"good", signedFile("/opt/new", "new", good), nil},
			{"good, for a listed path with another digest", signedFile("/usr/bin/a", "new", good), nil},
			{"portable", signedFile("/opt/new", "new", edited(func(b []byte) { b[0] = 5 })), nil},
			{"SHA-512", measurement{template: "ima-sig", digest: attest.SHA512.Sum([]byte("new")), name: "/opt/new", tail: key.sign(t, attest.SHA512.Sum([]byte("new")))}, nil},
			{"no signature", signedFile("/opt/new", "new", nil), unlisted},
			{"of another file", signedFile("/opt/new", "other", good), invalid},
			{"of another file, with an approved digest", signedFile("/usr/bin/a", "a", good), invalid},
			{"changed", signedFile("/opt/new", "new", edited(func(b []byte) { b[len(b)-1] ^= 1 })), invalid},
			{"another algorithm", signedFile("/opt/new", "new", edited(func(b []byte) { b[2] = 6 })), invalid},
			{"unknown algorithm", signedFile("/opt/new", "new", edited(func(b []byte) { b[2] = 17 })), invalid},
			{"type", signedFile("/opt/new", "new", edited(func(b []byte) { b[0] = 6 })), invalid},
			{"version", signedFile("/opt/new", "new", edited(func(b []byte) { b[1] = 3 })), invalid},
			{"length", signedFile("/opt/new", "new", good[:len(good)-1]), invalid},
			{"bytes after it", signedFile("/opt/new", "new", append(edited(func([]byte) {}), 0)), invalid},
			{"header only", signedFile("/opt/new", "new", good[:5]), invalid},
			{"changed, but excluded", signedFile("/tmp/new", "new", edited(func(b []byte) { b[len(b)-1] ^= 1 })), nil},
			{"another key", signedFile("/opt/new", "new", edited(func(b []byte) { b[3] ^= 1 })), unlisted},
			{"another key, for a listed path", signedFile("/usr/bin/a", "new", edited(func(b []byte) { b[3] ^= 1 })), mismatch},
			{"another key, with an approved digest", signedFile("/usr/bin/a", "a", edited(func(b []byte) { b[3] ^= 1 })), nil},
		} {
			t.Run(name+", "+test.name, func(t *testing.T) {
				m := newMachine()
				set("verificationKeys", []any{key.pem()})(m)
				if result := m.round(t); !result.Passed() {
					t.Fatalf("without the entry: %+v", result.Failures)
				}
				measure(test.entry)(m)
				if diff := cmp.Diff(append([]attest.FailureID{}, test.want...), ids(m.round(t).Failures)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// TestSignaturesWithoutKeys decide nothing.
func TestSignaturesWithoutKeys(t *testing.T) {
	m := newMachine()
	measure(signedFile("/usr/bin/a", "a", []byte("no signature at all")))(m)
	if result := m.round(t); !result.Passed() {
		t.Errorf("%+v", result.Failures)
	}
}

// TestLearnedKeys: an approved key that is loaded into a keyring vouches for files from then on, in later rounds too.
func TestLearnedKeys(t *testing.T) {
	key := newFileKeys(t)["RSA"]
	loading, signed := buffer(".ima", key.der), signedFile("/opt/new", "new", key.sign(t, content("new")))
	keyrings := map[string]any{".ima": []any{content(string(key.der)).String()}}

	m := newMachine()
	set("keyrings", keyrings)(m)
	measure(loading)(m)
	if result := m.round(t); !result.Passed() || len(m.progress.Keys) != 1 || m.progress.Keys[0].Keyring != ".ima" {
		t.Fatalf("%+v, keys %v", result.Failures, m.progress.Keys)
	}
	before := m.progress
	measure(signed)(m)
	if result := m.round(t); !result.Passed() {
		t.Errorf("a file with its signature: %+v", result.Failures)
	}
	if len(before.Keys) != 1 {
		t.Error("an appraisal changed the progress that it was given")
	}

	m = newMachine()
	set("keyrings", keyrings)(m)
	measure(signed, loading)(m)
	if diff := cmp.Diff([]attest.FailureID{attest.FileNotInPolicy}, ids(m.round(t).Failures)); diff != "" {
		t.Errorf("the file before the key: %s", diff)
	}

	m = newMachine()
	set("keyrings", keyrings)(m)
	set("ignoredKeyrings", []any{"*"})(m)
	measure(loading, signed)(m)
	if diff := cmp.Diff([]attest.FailureID{attest.FileNotInPolicy}, ids(m.round(t).Failures)); diff != "" || len(m.progress.Keys) != 0 {
		t.Errorf("a key of an ignored keyring was learned: %s", diff)
	}
}

func TestLearnedKeysAreBounded(t *testing.T) {
	m := newMachine()
	var digests []any
	for i := range maxLearnedKeys + 3 {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, content(string(der)).String())
		measure(buffer(fmt.Sprintf(".ima%d", i%2), der))(m)
	}
	set("keyrings", map[string]any{".ima0": digests, ".ima1": digests})(m)
	if result := m.round(t); !result.Passed() || len(m.progress.Keys) != maxLearnedKeys {
		t.Errorf("%+v, %d keys", result.Failures, len(m.progress.Keys))
	}
}

func FuzzParseSignature(f *testing.F) {
	f.Add([]byte{3, 2, 4, 1, 2, 3, 4, 0, 1, 9})
	f.Add([]byte{5, 2, 6, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{6, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSignature(b)
		if err == nil && (!s.hash.Known() || len(s.bytes) != len(b)-signatureHeaderBytes) {
			t.Errorf("%+v", s)
		}
	})
}

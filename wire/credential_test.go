package wire

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/endorsement"
)

// vector is one real activation.
type vector struct {
	UUID, Challenge string
	AuthTag         string `json:"auth_tag"`
	Blob            []byte
}

func readVector(t testing.TB) vector {
	var v vector
	readJSON(t, "activation.json", &v)
	return v
}

func TestAuthTag(t *testing.T) {
	v := readVector(t)
	if got := AuthTag([]byte(v.Challenge), v.UUID); got != v.AuthTag {
		t.Errorf("got %s, want %s", got, v.AuthTag)
	}
}

func TestCredentialBothWays(t *testing.T) {
	blob := readVector(t).Blob
	c, err := UnpackCredential(blob)
	if err != nil {
		t.Fatal(err)
	}
	if len(blob) != 336 || len(c.IDObject) != 0x44 || len(c.Secret) != 0x100 {
		t.Errorf("%d bytes: id object of %d, secret of %d", len(blob), len(c.IDObject), len(c.Secret))
	}
	if diff := cmp.Diff(blob, PackCredential(c)); diff != "" {
		t.Error(diff)
	}
	ecc := captured(t, "registrar.json", "register ecc")
	answer := roundTrip[Envelope[RegisterResults]](t, ecc.Response)
	if c, err = UnpackCredential(answer.Results.Blob); err != nil || len(c.Secret) != 2+32+2+32 {
		t.Errorf("a point of P-256: got %d bytes, %v", len(c.Secret), err)
	}
}

// A credential made for the captured keys packs to the captured sizes.
func TestOwnCredentialHasTheSameForm(t *testing.T) {
	ak, failures, err := endorsement.ParseAK(readFile(t, "ak.pub"))
	if err != nil || len(failures) > 0 {
		t.Fatal(err, failures)
	}
	if diff := cmp.Diff(readFile(t, "ak.name"), ak.Name()); diff != "" {
		t.Errorf("name: %s", diff)
	}
	ek, err := endorsement.ParseEK(readFile(t, "ek.pub"))
	if err != nil {
		t.Fatal(err)
	}
	challenge, err := NewChallenge(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c, err := endorsement.MakeCredential(rand.Reader, ek, ak.Name(), challenge)
	if err != nil {
		t.Fatal(err)
	}
	want := readVector(t).Blob
	got := PackCredential(c)
	if len(got) != len(want) || !bytes.Equal(got[:12], want[:12]) {
		t.Errorf("%d bytes beginning %x, want %d beginning %x", len(got), got[:12], len(want), want[:12])
	}
}

func TestUnpackCredentialRefuses(t *testing.T) {
	good := readVector(t).Blob
	edit := func(change func(b []byte) []byte) []byte { return change(bytes.Clone(good)) }
	tests := []struct {
		name, detail string
		blob         []byte
	}{
		{"empty", "shorter than its head", nil},
		{"short", "shorter than its head", good[:7]},
		{"magic", "magic 0xbadcc0df", edit(func(b []byte) []byte { b[3]++; return b })},
		{"version", "version 2", edit(func(b []byte) []byte { b[7]++; return b })},
		{"no id object", "id object: no length", good[:9]},
		{"id object too long", "id object: length 65535", edit(func(b []byte) []byte { binary.BigEndian.PutUint16(b[8:], 0xffff); return b })},
		{"empty id object", "id object: length 0", edit(func(b []byte) []byte { binary.BigEndian.PutUint16(b[8:], 0); return b })},
		{"cut in the secret", "secret: length 256, but 1 to 255", good[:len(good)-1]},
		{"no secret", "secret: no length", good[:10+0x44+1]},
		{"trailing byte", "1 bytes behind the secret", append(bytes.Clone(good), 0)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := UnpackCredential(tt.blob)
			if err == nil || !strings.Contains(err.Error(), tt.detail) {
				t.Errorf("got %v, want %q", err, tt.detail)
			}
		})
	}
}

func TestRandomTexts(t *testing.T) {
	// 0xf8 to 0xff are passed over: they would make A to H more likely.
	source := bytes.NewReader(append([]byte{0xff, 0xf8, 0, 25, 26, 61, 62, 0xf7}, make([]byte, 40)...))
	got, err := NewChallenge(source)
	if err != nil {
		t.Fatal(err)
	}
	if want := "AZa9A9" + strings.Repeat("A", 26); string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if nonce, err := NewNonce(rand.Reader); err != nil || len(nonce) != 20 {
		t.Errorf("nonce %q, %v", nonce, err)
	}
	if _, err := NewNonce(iotest.ErrReader(iotest.ErrTimeout)); err == nil {
		t.Error("a broken random source was not noticed")
	}
	if _, err := NewNonce(strings.NewReader("short")); err == nil {
		t.Error("an ended random source was not noticed")
	}
}

func FuzzUnpackCredential(f *testing.F) {
	f.Add(readVector(f).Blob)
	small, _ := base64.StdEncoding.DecodeString("utzA3gAAAAEAAQAAAQA=")
	f.Add(small)
	f.Fuzz(func(t *testing.T, blob []byte) {
		c, err := UnpackCredential(blob)
		if err == nil && !bytes.Equal(PackCredential(c), blob) {
			t.Errorf("%x packs to %x", blob, PackCredential(c))
		}
	})
}

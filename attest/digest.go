package attest

import (
	"crypto"
	_ "crypto/sha1" // the SHA-1 bank of old kernels and firmware
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strings"
)

// Hash is a hash algorithm by its TCG identifier (TPM_ALG_ID, TCG Algorithm Registry, table 3).
type Hash uint16

// The hash algorithms of the PCR banks that Assay reads.
const (
	SHA1   Hash = 0x0004
	SHA256 Hash = 0x000b
	SHA384 Hash = 0x000c
	SHA512 Hash = 0x000d
)

// MaxDigestSize is the size in bytes of the largest digest, SHA-512's.
const MaxDigestSize = 64

// ErrHash says that a hash algorithm is not one of the four that Assay knows.
var ErrHash = errors.New("unknown hash algorithm")

// Hashes returns the known algorithms, weakest first.
func Hashes() []Hash { return []Hash{SHA1, SHA256, SHA384, SHA512} }

// ParseHash finds an algorithm by its kernel name: sha1, sha256, sha384 or sha512.
func ParseHash(name string) (Hash, error) {
	for _, h := range Hashes() {
		if h.String() == name {
			return h, nil
		}
	}
	return 0, fmt.Errorf("%w %q", ErrHash, name)
}

// Known reports whether h is one of the four algorithms.
func (h Hash) Known() bool { return h.Crypto() != 0 }

// Crypto returns the algorithm's number in the standard library, or 0 for an unknown one.
func (h Hash) Crypto() crypto.Hash {
	switch h {
	case SHA1:
		return crypto.SHA1
	case SHA256:
		return crypto.SHA256
	case SHA384:
		return crypto.SHA384
	case SHA512:
		return crypto.SHA512
	}
	return 0
}

// Size returns the digest size in bytes, or 0 for an unknown algorithm.
func (h Hash) Size() int {
	if c := h.Crypto(); c != 0 {
		return c.Size()
	}
	return 0
}

// New returns a running hash. It panics for an unknown algorithm, as crypto.Hash does.
func (h Hash) New() hash.Hash { return h.Crypto().New() }

// Sum hashes the concatenation of parts. It panics for an unknown algorithm.
func (h Hash) Sum(parts ...[]byte) Digest {
	run := h.New()
	for _, part := range parts {
		run.Write(part)
	}
	d := Digest{alg: h}
	run.Sum(d.sum[:0])
	return d
}

// String returns the kernel's name of the algorithm.
func (h Hash) String() string {
	switch h {
	case SHA1:
		return "sha1"
	case SHA256:
		return "sha256"
	case SHA384:
		return "sha384"
	case SHA512:
		return "sha512"
	}
	return fmt.Sprintf("alg-%#04x", uint16(h))
}

// Digest is a digest with its algorithm. It is comparable, so it serves as a map key. The zero value is no digest.
type Digest struct {
	alg Hash
	sum [MaxDigestSize]byte // bytes beyond the algorithm's size are zero
}

// NewDigest takes a digest's bytes; their number must be the algorithm's size.
func NewDigest(h Hash, sum []byte) (Digest, error) {
	if !h.Known() {
		return Digest{}, fmt.Errorf("digest: %w %s", ErrHash, h)
	}
	if len(sum) != h.Size() {
		return Digest{}, fmt.Errorf("digest: %s has %d bytes, not %d", h, h.Size(), len(sum))
	}
	d := Digest{alg: h}
	copy(d.sum[:], sum)
	return d, nil
}

// ParseDigest reads "sha256:hex", in lower or upper case digits.
func ParseDigest(text string) (Digest, error) {
	name, digits, found := strings.Cut(text, ":")
	if !found {
		return Digest{}, fmt.Errorf("digest %.80q: no colon between algorithm and digits", text)
	}
	h, err := ParseHash(name)
	if err != nil {
		return Digest{}, fmt.Errorf("digest %.80q: %w", text, err)
	}
	sum, err := hex.DecodeString(digits)
	if err != nil {
		return Digest{}, fmt.Errorf("digest %.80q: %w", text, err)
	}
	return NewDigest(h, sum)
}

// Hash returns the algorithm, or 0 for the zero Digest.
func (d Digest) Hash() Hash { return d.alg }

// IsZero reports whether d is the zero value: no digest at all, not a digest of zeros.
func (d Digest) IsZero() bool { return d.alg == 0 }

// Bytes returns a copy of the digest's bytes.
func (d Digest) Bytes() []byte { return append([]byte(nil), d.sum[:d.alg.Size()]...) }

// AppendBytes appends the digest's bytes, for callers that cannot afford a copy of their own.
func (d Digest) AppendBytes(to []byte) []byte { return append(to, d.sum[:d.alg.Size()]...) }

// Hex returns the digest's digits in lower case, without the algorithm.
func (d Digest) Hex() string { return hex.EncodeToString(d.sum[:d.alg.Size()]) }

// String returns "sha256:hex", or "" for the zero Digest.
func (d Digest) String() string {
	if d.IsZero() {
		return ""
	}
	return d.alg.String() + ":" + d.Hex()
}

// MarshalText writes String's form.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads String's form; empty text gives the zero Digest.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*d = Digest{}
		return nil
	}
	parsed, err := ParseDigest(string(text))
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}

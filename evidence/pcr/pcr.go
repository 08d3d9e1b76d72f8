// Package pcr holds PCR banks: selections, values, extending and the composite digest that a quote signs.
//
// It trusts nothing: values are claims until quote.Verify has compared them with a signature.
package pcr

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/assay-project/assay/attest"
)

// Count is the number of PCRs of a bank (TCG PC Client Platform TPM Profile, section 4.6).
const Count = 24

// Debug is the resettable PCR 16, in which Keylime's agents bind their transport key.
const Debug = 16

// Selection is a set of PCRs of one bank. Bit p of Mask stands for PCR p. It is comparable.
type Selection struct {
	Bank attest.Hash `json:"bank"`
	Mask uint32      `json:"mask"`
}

// Select returns the selection of the given PCRs. It panics on an index outside 0 to Count-1: indices are constants of the caller,
// untrusted ones are checked where they are parsed.
func Select(bank attest.Hash, pcrs ...int) Selection {
	return Selection{Bank: bank}.With(pcrs...)
}

// With returns the selection united with the given PCRs; it panics as Select does.
func (s Selection) With(pcrs ...int) Selection {
	for _, p := range pcrs {
		if p < 0 || p >= Count {
			panic(fmt.Sprintf("pcr: index %d outside 0 to %d", p, Count-1))
		}
		s.Mask |= 1 << p
	}
	return s
}

// Has reports whether PCR p is selected.
func (s Selection) Has(p int) bool { return p >= 0 && p < Count && s.Mask&(1<<p) != 0 }

// Len returns the number of selected PCRs.
func (s Selection) Len() int { return bits.OnesCount32(s.Mask) }

// PCRs returns the selected indices in ascending order.
func (s Selection) PCRs() []int {
	pcrs := make([]int, 0, s.Len())
	for p := range Count {
		if s.Has(p) {
			pcrs = append(pcrs, p)
		}
	}
	return pcrs
}

// String returns the form of tpm2-tools, "sha256:0,1,10".
func (s Selection) String() string {
	words := make([]string, 0, s.Len())
	for _, p := range s.PCRs() {
		words = append(words, strconv.Itoa(p))
	}
	return s.Bank.String() + ":" + strings.Join(words, ",")
}

// Values are the values of some PCRs of one bank.
type Values struct {
	Bank    attest.Hash           `json:"bank"`
	Digests map[int]attest.Digest `json:"digests"`
}

// Get returns the value of PCR p.
func (v Values) Get(p int) (attest.Digest, bool) {
	d, ok := v.Digests[p]
	return d, ok
}

// Selection returns which PCRs v holds; indices outside the bank are left out.
func (v Values) Selection() Selection {
	s := Selection{Bank: v.Bank}
	for p := range v.Digests {
		if p >= 0 && p < Count {
			s.Mask |= 1 << p
		}
	}
	return s
}

// Composite returns the digest, with algorithm h, over the values in ascending order of their PCRs (TPM 2.0 Part 1, "Attesting to PCR").
func (v Values) Composite(h attest.Hash) attest.Digest {
	run := make([][]byte, 0, len(v.Digests))
	for _, p := range v.Selection().PCRs() {
		run = append(run, v.Digests[p].Bytes())
	}
	return h.Sum(run...)
}

// Initial returns a PCR's value after TPM2_Startup(CLEAR) at locality 0: zeros, and ones for the PCRs of the dynamic root of trust.
// h must be a known algorithm.
func Initial(h attest.Hash, p int) attest.Digest {
	sum := make([]byte, h.Size())
	if p >= 17 && p <= 22 {
		for i := range sum {
			sum[i] = 0xff
		}
	}
	d, err := attest.NewDigest(h, sum)
	if err != nil {
		panic(err) // an unknown algorithm: the caller's bug
	}
	return d
}

// Extend returns H(old || digest), as TPM2_PCR_Extend does.
func Extend(old attest.Digest, digest []byte) attest.Digest {
	return old.Hash().Sum(old.Bytes(), digest)
}

// Pad returns a SHA-1 digest padded with zeros to the size of h: what kernels extend into a bank whose hash they lack
// (security/integrity/ima/ima_queue.c, ima_init_digests and ima_crypto.c).
func Pad(h attest.Hash, sha1 []byte) []byte {
	padded := make([]byte, h.Size())
	copy(padded, sha1)
	return padded
}

package pcr_test

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
)

func TestSelection(t *testing.T) {
	tests := map[string]struct {
		selection pcr.Selection
		pcrs      []int
		text      string
	}{
		"none":    {pcr.Select(attest.SHA256), []int{}, "sha256:"},
		"borders": {pcr.Select(attest.SHA1, 23, 0), []int{0, 23}, "sha1:0,23"},
		"twice":   {pcr.Select(attest.SHA384, 10, 10).With(pcr.Debug, 10), []int{10, 16}, "sha384:10,16"},
		"all":     {pcr.Selection{Bank: attest.SHA512, Mask: 1<<pcr.Count - 1}, upTo(pcr.Count), "sha512:0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.pcrs, tt.selection.PCRs()); diff != "" {
				t.Errorf("PCRs (-want +got):\n%s", diff)
			}
			if got := tt.selection.Len(); got != len(tt.pcrs) {
				t.Errorf("%d PCRs, want %d", got, len(tt.pcrs))
			}
			if got := tt.selection.String(); got != tt.text {
				t.Errorf("%s, want %s", got, tt.text)
			}
		})
	}
}

func upTo(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

func TestSelectionHasNothingOutsideTheBank(t *testing.T) {
	all := pcr.Selection{Bank: attest.SHA256, Mask: 0xffffffff}
	for _, p := range []int{-1, pcr.Count, 31, 32} {
		if all.Has(p) {
			t.Errorf("has PCR %d", p)
		}
	}
	if !all.Has(0) || !all.Has(23) {
		t.Error("lacks PCR 0 or 23")
	}
	for _, p := range []int{-1, pcr.Count} {
		t.Run("", func(t *testing.T) {
			defer func() {
				if got, _ := recover().(string); !strings.Contains(got, "outside 0 to 23") {
					t.Errorf("PCR %d: panic %q", p, got)
				}
			}()
			pcr.Select(attest.SHA256, p)
		})
	}
}

func TestInitial(t *testing.T) {
	for _, h := range attest.Hashes() {
		for p := range pcr.Count {
			want := byte(0)
			if p >= 17 && p <= 22 {
				want = 0xff
			}
			if got := pcr.Initial(h, p); got.Hash() != h || !bytes.Equal(got.Bytes(), bytes.Repeat([]byte{want}, h.Size())) {
				t.Errorf("%s PCR %d starts as %s", h, p, got)
			}
		}
	}
}

// The PCR hashes its old value before the new digest; the expectation is spelled out with the standard library.
func TestExtend(t *testing.T) {
	event := []byte("event")
	want := map[attest.Hash]func() []byte{
		attest.SHA1:   func() []byte { s := sha1.Sum(append(make([]byte, 20), event...)); return s[:] },
		attest.SHA256: func() []byte { s := sha256.Sum256(append(make([]byte, 32), event...)); return s[:] },
		attest.SHA384: func() []byte { s := sha512.Sum384(append(make([]byte, 48), event...)); return s[:] },
		attest.SHA512: func() []byte { s := sha512.Sum512(append(make([]byte, 64), event...)); return s[:] },
	}
	for _, h := range attest.Hashes() {
		if got := pcr.Extend(pcr.Initial(h, 0), event); !bytes.Equal(got.Bytes(), want[h]()) {
			t.Errorf("%s: %s", h, got)
		}
	}
}

// A separator that is measured into every boot PCR: the value of PCR 3 of a machine that loaded nothing from elsewhere.
func TestExtendSeparator(t *testing.T) {
	separator := sha256.Sum256(make([]byte, 4))
	got := pcr.Extend(pcr.Initial(attest.SHA256, 3), separator[:])
	if want := "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"; got.Hex() != want {
		t.Errorf("%s, want %s", got.Hex(), want)
	}
}

func TestPad(t *testing.T) {
	sum := sha1.Sum([]byte("template"))
	for _, h := range attest.Hashes() {
		got := pcr.Pad(h, sum[:])
		if len(got) != h.Size() || !bytes.Equal(got[:20], sum[:]) || !bytes.Equal(got[20:], make([]byte, h.Size()-20)) {
			t.Errorf("%s: %x", h, got)
		}
	}
}

func TestComposite(t *testing.T) {
	one, two := attest.SHA1.Sum([]byte("1")), attest.SHA1.Sum([]byte("2"))
	values := pcr.Values{Bank: attest.SHA1, Digests: map[int]attest.Digest{10: two, 2: one}}
	want := attest.SHA256.Sum(one.Bytes(), two.Bytes())
	if got := values.Composite(attest.SHA256); got != want {
		t.Errorf("ascending order of PCRs: %s, want %s", got, want)
	}
	if got, want := values.Selection(), pcr.Select(attest.SHA1, 2, 10); got != want {
		t.Errorf("selection %s, want %s", got, want)
	}
	if got, ok := values.Get(10); !ok || got != two {
		t.Errorf("PCR 10: %s, %t", got, ok)
	}
	if _, ok := values.Get(3); ok {
		t.Error("PCR 3 has a value")
	}
	values.Digests[24] = one
	if got := values.Composite(attest.SHA256); got != want {
		t.Error("an index outside the bank changed the composite")
	}
	if got, want := (pcr.Values{}).Composite(attest.SHA256), attest.SHA256.Sum(); got != want {
		t.Errorf("no values: %s, want %s", got, want)
	}
}

func TestValuesAsJSON(t *testing.T) {
	values := pcr.Values{Bank: attest.SHA256, Digests: map[int]attest.Digest{10: attest.SHA256.Sum([]byte("x"))}}
	text, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	var back pcr.Values
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(values.Digests[10].String(), back.Digests[10].String()); diff != "" || back.Bank != values.Bank {
		t.Errorf("there and back (-want +got):\n%s", diff)
	}
}

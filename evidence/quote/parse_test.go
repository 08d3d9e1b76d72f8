package quote_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/evidence/quote/quotetest"
)

// Offsets in the TPMS_ATTEST that newRound's signer makes: magic, type, qualified signer of 34 bytes, nonce, clock, firmware, selection.
const (
	signerAt   = 6
	safeAt     = signerAt + 2 + 34 + 2 + len("a nonce of this round") + 16
	countAt    = safeAt + 1 + 8
	widthAt    = countAt + 4 + 2
	digestAt   = widthAt + 1 + 3
	attestSize = digestAt + 2 + 32
)

func TestParseRefuses(t *testing.T) {
	edit := func(change func(*quotetest.Attest)) func(*round, *quote.Raw) {
		return func(r *round, raw *quote.Raw) {
			r.options.Edit = change
			raw.Attest = r.signer.Quote(r.options).Attest
		}
	}
	poke := func(at int, value ...byte) func(*round, *quote.Raw) {
		return func(_ *round, raw *quote.Raw) { copy(raw.Attest[at:], value) }
	}
	tests := map[string]struct {
		fault func(*round, *quote.Raw)
		want  string
	}{
		"magic":                  {edit(func(a *quotetest.Attest) { a.Magic = 0xff544348 }), "offset 4: magic is 0xff544348"},
		"a TPM2_Certify":         {edit(func(a *quotetest.Attest) { a.Type = 0x8017 }), "offset 6: type is 0x8017"},
		"no signer":              {edit(func(a *quotetest.Attest) { a.Signer = nil }), "qualified signer has 0 bytes"},
		"signer of unknown hash": {poke(signerAt+2, 0, 0x12), "34 bytes do not make a alg-0x0012 name"},
		"signer of wrong size":   {edit(func(a *quotetest.Attest) { a.Signer = a.Signer[:33] }), "33 bytes do not make a sha256 name"},
		"safe neither 0 nor 1":   {poke(safeAt, 2), "safe is 2"},
		"many selections":        {poke(countAt, 0xff, 0xff, 0xff, 0xff), "4294967295 PCR selections, more than 16"},
		"narrow bitmap":          {poke(widthAt, 2), "PCR bitmap has 2 bytes, not 3"},
		"wide bitmap":            {poke(widthAt, 4), "PCR bitmap has 4 bytes, not 3"},
		"digest longer than all": {poke(digestAt, 0xff, 0xff), "65535 bytes wanted, 32 left"},
		"trailing byte":          {func(_ *round, raw *quote.Raw) { raw.Attest = append(raw.Attest, 0) }, "1 bytes after the end"},
		"huge structure":         {func(_ *round, raw *quote.Raw) { raw.Attest = make([]byte, 1025) }, "1025 bytes, more than 1024"},
		"huge signature":         {func(_ *round, raw *quote.Raw) { raw.Signature = make([]byte, 1025) }, "1025 bytes, more than 1024"},
		"no values":              {func(_ *round, raw *quote.Raw) { raw.Selections, raw.Digests = nil, nil }, "0 selections, not 1"},
		"values of two banks": {func(_ *round, raw *quote.Raw) {
			raw.Selections = append(raw.Selections, pcr.Selection{Bank: attest.SHA1})
		}, "2 selections, not 1"},
		"values of unknown bank": {func(_ *round, raw *quote.Raw) { raw.Selections[0].Bank = 0x12 }, "unknown hash algorithm alg-0x0012"},
		"PCR 24":                 {func(_ *round, raw *quote.Raw) { raw.Selections[0].Mask |= 1 << 24 }, "names a PCR beyond 23"},
		"a value too few":        {func(_ *round, raw *quote.Raw) { raw.Digests = raw.Digests[1:] }, "3 values for the 4 PCRs"},
		"a value too many":       {func(_ *round, raw *quote.Raw) { raw.Digests = append(raw.Digests, raw.Digests[0]) }, "5 values for the 4 PCRs"},
		"a value of wrong size":  {func(_ *round, raw *quote.Raw) { raw.Digests[1] = raw.Digests[1][:20] }, "PCR 7: digest: sha256 has 32 bytes, not 20"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRound(t, quotetest.ECDSAP256)
			raw := r.signer.Quote(r.options)
			if len(raw.Attest) != attestSize {
				t.Fatalf("structure has %d bytes, the offsets above expect %d", len(raw.Attest), attestSize)
			}
			if _, err := quote.Parse(raw); err != nil {
				t.Fatalf("without the fault: %v", err)
			}
			tt.fault(r, &raw)
			if _, err := quote.Parse(raw); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestParseRefusesEveryTruncation(t *testing.T) {
	r := newRound(t, quotetest.ECDSAP256)
	raw := r.signer.Quote(r.options)
	whole := raw.Attest
	for n := range len(whole) {
		raw.Attest = whole[:n]
		if _, err := quote.Parse(raw); err == nil {
			t.Errorf("the first %d of %d bytes were accepted", n, len(whole))
		}
	}
}

func TestParseKeepsItsOwnBytes(t *testing.T) {
	r := newRound(t, quotetest.ECDSAP256)
	raw := r.signer.Quote(r.options)
	parsed, err := quote.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	clear(raw.Attest)
	clear(raw.Signature)
	if _, failures := quote.Verify(parsed, r.want); len(failures) > 0 {
		t.Errorf("after the caller cleared its buffers: %v", failures)
	}
	if got := parsed.Nonce(); !bytes.Equal(got, r.options.Nonce) {
		t.Errorf("nonce %q", got)
	}
	if diff := cmp.Diff(r.options.Clock, parsed.Clock()); diff != "" {
		t.Errorf("clock (-want +got):\n%s", diff)
	}
	if len(parsed.Raw().Attest) != attestSize {
		t.Errorf("raw structure has %d bytes", len(parsed.Raw().Attest))
	}
}

// FuzzParse: no input makes Parse panic, and nothing but the signer's own quotes verifies.
func FuzzParse(f *testing.F) {
	for _, c := range readCaptures(f) {
		f.Add(c.Quote.Attest, c.Quote.Signature, uint16(c.Quote.Selections[0].Bank), c.Quote.Selections[0].Mask, bytes.Join(c.Quote.Digests, nil))
	}
	f.Add([]byte{0xff, 'T', 'C', 'G', 0x80, 0x18}, []byte{0, 0x14}, uint16(4), uint32(1), []byte{})
	f.Add(binary.BigEndian.AppendUint32(nil, 0xff544347), []byte{}, uint16(0), uint32(1<<31), []byte("x"))
	signer := quotetest.NewSigner(f, quotetest.ECDSAP256)
	f.Fuzz(func(t *testing.T, structure, signature []byte, bank uint16, mask uint32, values []byte) {
		raw := quote.Raw{Attest: structure, Signature: signature, Selections: []pcr.Selection{{Bank: attest.Hash(bank), Mask: mask}}}
		for size := attest.Hash(bank).Size(); size > 0 && len(values) >= size; values = values[size:] {
			raw.Digests = append(raw.Digests, values[:size])
		}
		parsed, err := quote.Parse(raw)
		if err != nil {
			return
		}
		want := quote.Expected{AK: signer.AK(), Nonce: parsed.Nonce(), Selection: raw.Selections[0]}
		if verified, failures := quote.Verify(parsed, want); verified.Valid() || len(failures) == 0 {
			t.Error("a quote that the key did not sign was accepted")
		}
	})
}

package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
)

type capturedQuote struct{ Origin, Path, Quote, Pubkey string }

func quotes(t testing.TB) []capturedQuote {
	var all []capturedQuote
	readJSON(t, "quotes.json", &all)
	for _, name := range []string{"identity", "identity ecc", "integrity no list selected", "integrity partial list"} {
		e := captured(t, "agent.json", name)
		var answer Envelope[QuoteResults]
		readResponse(t, e, &answer)
		all = append(all, capturedQuote{e.Origin, e.Path, answer.Results.Quote, answer.Results.Pubkey})
	}
	return all
}

// Captured quotes unpack to well-formed ones, pack to the same text, and bind the transport key in PCR 16.
func TestQuotesBothWays(t *testing.T) {
	for _, c := range quotes(t) {
		t.Run(c.Origin, func(t *testing.T) {
			raw, err := UnpackQuote(c.Quote)
			if err != nil {
				t.Fatal(err)
			}
			if PackQuote(raw) != c.Quote {
				t.Error("packs to another text")
			}
			if _, err := quote.Parse(raw); err != nil {
				t.Error(err)
			}
			if len(raw.Selections) != 1 || !raw.Selections[0].Has(16) || raw.Selections[0].Len() != len(raw.Digests) {
				t.Fatalf("%v with %d values", raw.Selections, len(raw.Digests))
			}
			at := pcr.Selection{Bank: attest.SHA256, Mask: raw.Selections[0].Mask & (1<<16 - 1)}.Len()
			pem := attest.SHA256.Sum([]byte(c.Pubkey)).Bytes()
			if want := pcr.Extend(pcr.Initial(attest.SHA256, 16), pem).Bytes(); c.Pubkey != "" && !bytes.Equal(raw.Digests[at], want) {
				t.Errorf("PCR 16 is %x, want %x", raw.Digests[at], want)
			}
		})
	}
}

// Appendix B of the reference: a blob of PCR 15, zero.
func TestPCRBlobVector(t *testing.T) {
	blob := PackPCRs([]pcr.Selection{pcr.Select(attest.SHA256, 15)}, [][]byte{make([]byte, 32)})
	want := make([]byte, 668)
	copy(want, []byte{1, 0, 0, 0, 0x0b, 0, 3, 0, 0x80, 0, 0, 0})
	want[132], want[136], want[140] = 1, 1, 0x20
	if diff := cmp.Diff(want, blob); diff != "" {
		t.Error(diff)
	}
	all := make([][]byte, 17)
	if got := len(PackPCRs([]pcr.Selection{{Bank: attest.SHA256, Mask: 0x1ffff}}, all)); got != 1732 {
		t.Errorf("17 PCRs: %d bytes, want 1732", got)
	}
}

// What is not ours to judge passes: quote.Parse and quote.Verify see it.
func TestUnpackPCRsLeavesJudgementToQuote(t *testing.T) {
	selections := []pcr.Selection{{Bank: attest.SHA1, Mask: 3}, {Bank: 0x12, Mask: 1 << 23}}
	digests := [][]byte{make([]byte, 20), bytes.Repeat([]byte{7}, 64), nil}
	gotSelections, gotDigests, err := UnpackPCRs(PackPCRs(selections, digests))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(selections, gotSelections); diff != "" {
		t.Error(diff)
	}
	if len(gotDigests) != 3 || !bytes.Equal(gotDigests[1], digests[1]) || len(gotDigests[2]) != 0 {
		t.Errorf("got %x", gotDigests)
	}
	if _, err := quote.Parse(quote.Raw{Selections: gotSelections, Digests: gotDigests}); err == nil {
		t.Error("quote.Parse took two selections")
	}
}

func TestUnpackPCRsRefuses(t *testing.T) {
	good := PackPCRs([]pcr.Selection{pcr.Select(attest.SHA256, 0, 10, 16)}, [][]byte{make([]byte, 32), make([]byte, 32), make([]byte, 32)})
	edit := func(change func(b []byte)) []byte {
		b := bytes.Clone(good)
		change(b)
		return b
	}
	tests := []struct {
		name, detail string
		blob         []byte
	}{
		{"empty", "0 bytes, not 136 to", nil},
		{"short", "135 bytes", good[:135]},
		{"large", "bytes, not 136 to", make([]byte, maxBlobBytes+1)},
		{"17 selections", "17 selections", edit(func(b []byte) { b[0] = 17 })},
		{"4 billion selections", "4294967295 selections", edit(func(b []byte) { copy(b, "\xff\xff\xff\xff") })},
		{"hidden selection", "selection 1 is beyond the 1 used", edit(func(b []byte) { b[12] = 4 })},
		{"bitmap of 4 bytes", "bitmap of 4 bytes", edit(func(b []byte) { b[6] = 4 })},
		{"unused bitmap", "bitmap of 0 bytes", edit(func(b []byte) { b[6] = 0 })},
		{"PCR beyond the bitmap", "behind the bitmap", edit(func(b []byte) { b[10] = 1 })},
		{"padding", "behind the bitmap", edit(func(b []byte) { b[11] = 1 })},
		{"no list where one is", "532 bytes behind the selection, not the 0 of 0", edit(func(b []byte) { b[132] = 0 })},
		{"4 billion lists", "of 4294967295 digest lists", edit(func(b []byte) { copy(b[132:], "\xff\xff\xff\xff") })},
		{"trailing byte", "533 bytes", append(bytes.Clone(good), 0)},
		{"cut", "531 bytes", good[:len(good)-1]},
		{"empty list", "list 0: 0 digests", edit(func(b []byte) { b[136] = 0 })},
		{"9 digests", "list 0: 9 digests", edit(func(b []byte) { b[136] = 9 })},
		{"hidden digest", "digest 3 is beyond the 3 used", edit(func(b []byte) { b[140+3*66] = 32 })},
		{"digest of 65 bytes", "digest 2: 65 bytes", edit(func(b []byte) { binary.LittleEndian.PutUint16(b[140+2*66:], 65) })},
		{"bytes behind a digest", "digest 1: bytes behind its 32", edit(func(b []byte) { b[140+66+2+32] = 1 })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := UnpackPCRs(tt.blob)
			if err == nil || !strings.Contains(err.Error(), tt.detail) {
				t.Errorf("got %v, want %q", err, tt.detail)
			}
		})
	}
	if _, _, err := UnpackPCRs(good); err != nil {
		t.Errorf("without faults: %v", err)
	}
}

func TestUnpackQuoteRefuses(t *testing.T) {
	good := quotes(t)[0].Quote
	parts := strings.Split(good, ":")
	tests := []struct{ name, detail, text string }{
		{"empty", "does not begin with r", ""},
		{"other prefix", "does not begin with r", "d" + good[1:]},
		{"no prefix", "does not begin with r", good[1:][:10]},
		{"two parts", "2 parts", parts[0] + ":" + parts[1]},
		{"four parts", "4 parts", good + ":"},
		{"attest", "TPMS_ATTEST: illegal base64", "r!" + parts[0][2:] + ":" + parts[1] + ":" + parts[2]},
		{"signature", "TPMT_SIGNATURE: illegal base64", parts[0] + ":" + parts[1] + "x:" + parts[2]},
		{"line end", "TPMT_SIGNATURE: line end", parts[0] + ":" + parts[1] + "\n:" + parts[2]},
		{"spare bits", "TPMS_ATTEST: illegal base64", "rAB==:" + parts[1] + ":" + parts[2]},
		{"blob", "PCR blob: 0 bytes", parts[0] + ":" + parts[1] + ":"},
		{"large", "more than", "r" + strings.Repeat("A", maxQuoteText)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := UnpackQuote(tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.detail) {
				t.Errorf("got %v, want %q", err, tt.detail)
			}
		})
	}
	if _, err := UnpackQuote(good); err != nil {
		t.Errorf("without faults: %v", err)
	}
}

// The largest possible quote is not refused by its length.
func TestLargestQuote(t *testing.T) {
	raw := quote.Raw{Attest: make([]byte, maxPartBytes), Signature: make([]byte, maxPartBytes)}
	for range slots {
		raw.Selections = append(raw.Selections, pcr.Selection{Bank: attest.SHA512, Mask: 1<<pcr.Count - 1})
	}
	for range slots * pcr.Count {
		raw.Digests = append(raw.Digests, make([]byte, attest.MaxDigestSize))
	}
	if _, err := UnpackQuote(PackQuote(raw)); err != nil {
		t.Error(err)
	}
}

func FuzzUnpackQuote(f *testing.F) {
	for _, c := range quotes(f) {
		f.Add(c.Quote)
	}
	f.Fuzz(func(t *testing.T, text string) {
		first, err := UnpackQuote(text)
		if err != nil {
			return
		}
		second, err := UnpackQuote(PackQuote(first))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzUnpackPCRs(f *testing.F) {
	f.Add(PackPCRs([]pcr.Selection{pcr.Select(attest.SHA256, 0, 10, 16)}, [][]byte{make([]byte, 32), make([]byte, 32), make([]byte, 32)}))
	for _, c := range quotes(f) {
		blob, _ := base64.StdEncoding.DecodeString(c.Quote[strings.LastIndexByte(c.Quote, ':')+1:])
		f.Add(blob)
	}
	f.Fuzz(func(t *testing.T, blob []byte) {
		selections, digests, err := UnpackPCRs(blob)
		if err != nil {
			return
		}
		again := PackPCRs(selections, digests)
		if s, d, err := UnpackPCRs(again); err != nil || !cmp.Equal(s, selections) || !cmp.Equal(d, digests) {
			t.Errorf("%x packs to %x: %v", blob, again, err)
		}
	})
}

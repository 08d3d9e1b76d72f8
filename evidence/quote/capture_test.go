package quote_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
)

// capture is a quote of a real TPM emulator; testdata/README.md tells its origin.
type capture struct {
	Name         string    `json:"name"`
	AK           []byte    `json:"ak"`
	Nonce        string    `json:"nonce"`
	Mask         uint32    `json:"mask"`
	TransportKey string    `json:"transportKey"`
	Quote        quote.Raw `json:"quote"`
}

func readCaptures(t testing.TB) []capture {
	t.Helper()
	text, err := os.ReadFile("testdata/captures.json")
	if err != nil {
		t.Fatal(err)
	}
	var captures []capture
	if err := json.Unmarshal(text, &captures); err != nil {
		t.Fatal(err)
	}
	return captures
}

func (c capture) expected(t testing.TB) quote.Expected {
	t.Helper()
	ak, failures, err := endorsement.ParseAK(c.AK)
	if err != nil || len(failures) > 0 {
		t.Fatalf("parse the AK: %v %v", failures, err)
	}
	return quote.Expected{
		AK: ak, Nonce: []byte(c.Nonce), Selection: pcr.Selection{Bank: attest.SHA256, Mask: c.Mask}, TransportKey: []byte(c.TransportKey),
	}
}

func TestCapturedQuotesVerify(t *testing.T) {
	captures := readCaptures(t)
	if len(captures) != 4 {
		t.Fatalf("%d captures, want 4", len(captures))
	}
	for _, c := range captures {
		t.Run(c.Name, func(t *testing.T) {
			want := c.expected(t)
			parsed, err := quote.Parse(c.Quote)
			if err != nil {
				t.Fatal(err)
			}
			verified, failures := quote.Verify(parsed, want)
			if len(failures) > 0 || !verified.Valid() {
				t.Fatalf("valid %t, failures %v", verified.Valid(), failures)
			}
			if got, want := verified.Selection(), want.Selection.With(pcr.Debug); got != want {
				t.Errorf("selection %s, want %s", got, want)
			}
			if got := string(verified.TransportKey()); got != c.TransportKey {
				t.Errorf("bound transport key %q, want %q", got, c.TransportKey)
			}
			want.Nonce = append(want.Nonce, '0')
			if _, failures := quote.Verify(parsed, want); !failedOnly(failures, attest.NonceMismatch) {
				t.Errorf("another nonce: %v", failures)
			}
		})
	}
}

// The same agent in one boot: the last round follows the first, and not the other way round.
func TestCapturedClockGoesForward(t *testing.T) {
	clocks := map[string]quote.Clock{}
	for _, c := range readCaptures(t) {
		parsed, err := quote.Parse(c.Quote)
		if err != nil {
			t.Fatal(err)
		}
		clocks[c.Name] = parsed.Clock()
	}
	first, last := clocks["rsa-integrity-first"], clocks["rsa-integrity-last"]
	if got, _ := last.Since(first); got != quote.SameBoot {
		t.Errorf("last after first: %s", got)
	}
	if got, _ := first.Since(last); got != quote.RolledBack {
		t.Errorf("first after last: %s", got)
	}
}

// Every single byte of a captured quote decides something: changing it makes Parse or Verify refuse.
func TestEveryByteOfACapturedQuoteDecides(t *testing.T) {
	c := readCaptures(t)[0]
	want := c.expected(t)
	refused := func(raw quote.Raw) bool {
		parsed, err := quote.Parse(raw)
		if err != nil {
			return true
		}
		verified, failures := quote.Verify(parsed, want)
		return len(failures) > 0 && !verified.Valid()
	}
	if refused(c.Quote) {
		t.Fatal("the unchanged quote is refused")
	}
	for part, data := range map[string][]byte{"attest": c.Quote.Attest, "signature": c.Quote.Signature, "value": c.Quote.Digests[0]} {
		for i := range data {
			data[i] ^= 0x01
			if !refused(c.Quote) {
				t.Errorf("%s: byte %d changed and accepted", part, i)
			}
			data[i] ^= 0x01
		}
	}
}

// failedOnly reports whether failures is exactly one failure with this ID.
func failedOnly(failures []attest.Failure, id attest.FailureID) bool {
	return len(failures) == 1 && failures[0].ID == id
}

package policy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/evidence/quote/quotetest"
)

func goldenQuote(t *testing.T, bank attest.Hash, seed string, pcrs ...int) quote.Verified {
	values := pcr.Values{Bank: bank, Digests: map[int]attest.Digest{}}
	for _, p := range pcrs {
		values.Digests[p] = bank.Sum([]byte{byte(p)})
	}
	values.Digests[4] = bank.Sum([]byte(seed))
	return quotetest.Verified(t, values, quote.Clock{Clock: 1, ResetCount: 1, Safe: true})
}

func TestBuildPcr(t *testing.T) {
	one, two := goldenQuote(t, attest.SHA256, "one", 0, 4, 7), goldenQuote(t, attest.SHA256, "two", 0, 4, 7)
	doc, err := BuildPcr("golden", pcr.Select(attest.SHA256, 0, 4), one, two, one)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := doc.Pcr().Selection(attest.SHA256), pcr.Select(attest.SHA256, 0, 4); got != want {
		t.Errorf("the document lists %s, want %s", got, want)
	}
	want := map[string]bool{attest.SHA256.Sum([]byte("one")).String(): true, attest.SHA256.Sum([]byte("two")).String(): true}
	got := map[string]bool{}
	for _, d := range doc.Pcr().Allowed(attest.SHA256, 4) {
		got[d.String()] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("PCR 4 (-want +got):\n%s", diff)
	}
	if n := len(doc.Pcr().Allowed(attest.SHA256, 0)); n != 1 {
		t.Errorf("PCR 0 has %d values, want the one that both machines show", n)
	}
}

func TestBuildPcrRefuses(t *testing.T) {
	good := goldenQuote(t, attest.SHA256, "one", 0, 4)
	chosen := pcr.Select(attest.SHA256, 0, 4)
	for _, test := range []struct {
		name     string
		document string
		chosen   pcr.Selection
		machines []quote.Verified
		want     string
	}{
		{"no machine", "golden", chosen, nil, "no quote to take values from"},
		{"no PCR", "golden", pcr.Select(attest.SHA256), []quote.Verified{good}, "no PCR is chosen"},
		{"not verified", "golden", chosen, []quote.Verified{good, {}}, "quote 2 is not verified"},
		{"other bank", "golden", chosen, []quote.Verified{goldenQuote(t, attest.SHA1, "one", 0, 4)}, "quote 1 is of bank sha1, not sha256"},
		{"PCR not quoted", "golden", pcr.Select(attest.SHA256, 0, 4, 7), []quote.Verified{good}, "quote 1 lacks PCR 7"},
		{"the list's PCR", "golden", pcr.Select(attest.SHA256, 10), []quote.Verified{goldenQuote(t, attest.SHA256, "one", 10)}, "PCR 10 is left to the measurement list"},
		{"bad name", "no name", chosen, []quote.Verified{good}, "name"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := BuildPcr(test.document, test.chosen, test.machines...); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

package ima

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/evidence/quote/quotetest"
)

var captures = []string{"fx-ovmf-tcb-sig", "fx-ovmf-tcb-ng", "fx-ovmf-pcr11", "fx-ovmf-tis-sha1"}

func readCapture(t testing.TB, parts ...string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(append([]string{"testdata"}, parts...)...))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// capturedPCRs reads one bank of pcrs.txt.
func capturedPCRs(t testing.TB, set string, bank attest.Hash) pcr.Values {
	t.Helper()
	values := pcr.Values{Bank: bank, Digests: map[int]attest.Digest{}}
	for line := range strings.Lines(string(readCapture(t, set, "pcrs.txt"))) {
		var name, digits string
		var index int
		if n, err := fmt.Sscan(line, &name, &index, &digits); n != 3 || name != bank.String() {
			_ = err // other lines hold other things
			continue
		}
		d, err := attest.ParseDigest(name + ":" + digits)
		if err != nil {
			t.Fatal(err)
		}
		values.Digests[index] = d
	}
	return values
}

func verified(t testing.TB, values pcr.Values) quote.Verified {
	t.Helper()
	return quotetest.Verified(t, values, quote.Clock{Clock: 1000, Safe: true})
}

// parsed reads both forms of a captured list.
func parsed(t testing.TB, set string, column attest.Hash) map[string]List {
	t.Helper()
	ascii, err := ParseASCII(readCapture(t, set, "ascii_runtime_measurements_"+column.String()))
	if err != nil {
		t.Fatal(err)
	}
	binary, err := ParseBinary(readCapture(t, set, "binary_runtime_measurements_"+column.String()))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]List{"ascii": ascii, "binary": binary}
}

func TestCapturesReplay(t *testing.T) {
	for _, set := range captures {
		for _, bank := range attest.Hashes() {
			v := verified(t, capturedPCRs(t, set, bank))
			for _, column := range []attest.Hash{attest.SHA1, bank} {
				for form, list := range parsed(t, set, column) {
					for _, index := range []int{10, 11} {
						name := fmt.Sprintf("%s/%s/%s/%s/%d", set, bank, column, form, index)
						replayed, failures := list.Replay(v, Request{PCR: index})
						if failures != nil || !replayed.Valid() || replayed.Padded() {
							t.Errorf("%s: %v, valid %v, padded %v", name, failures, replayed.Valid(), replayed.Padded())
						}
						if got := len(replayed.Entries()) + len(replayed.Others()) + len(replayed.Pending()); got != list.Len() || list.Len() != 18 {
							t.Errorf("%s: %d of %d entries", name, got, list.Len())
						}
					}
				}
			}
		}
	}
}

// The forms of one boot say the same, and each is written as it was read.
func TestCapturesFormat(t *testing.T) {
	for _, set := range captures {
		for _, column := range attest.Hashes() {
			lists := parsed(t, set, column)
			text := string(readCapture(t, set, "ascii_runtime_measurements_"+column.String()))
			raw := string(readCapture(t, set, "binary_runtime_measurements_"+column.String()))
			for form, list := range lists {
				if diff := cmp.Diff(text, string(list.ASCII())); diff != "" {
					t.Errorf("%s %s %s as text (-captured +written):\n%s", set, column, form, diff)
				}
				if diff := cmp.Diff(raw, string(list.Binary())); diff != "" {
					t.Errorf("%s %s %s as binary (-captured +written):\n%s", set, column, form, diff)
				}
			}
		}
	}
}

func TestCapturedEntries(t *testing.T) {
	list := parsed(t, "fx-ovmf-pcr11", attest.SHA256)["ascii"]
	type row struct {
		PCR            int
		Template, Path string
		Digest         string
		Violation      bool
	}
	var got []row
	for i, e := range list.All() {
		if i == 0 || i == 2 || i == 4 || i == 9 {
			got = append(got, row{e.PCR, e.Template, e.Path, e.Digest.String(), e.Violation})
		}
	}
	want := []row{
		{10, "ima-sig", "boot_aggregate", "sha256:780e320a34287574981e0842996e9cad2d0d3cfa25a10f4b0181e516f29e920c", false},
		{11, "ima-ng", "/mnt/r/bin/with_space.sh", "sha256:013c0d0d99f2c2cf72af8fe838bc9d8cadda4127c4dcff84e5726d3ade75309e", false},
		{11, "ima-ng", "/mnt/r/bin/uni-é中.sh", "sha256:013c0d0d99f2c2cf72af8fe838bc9d8cadda4127c4dcff84e5726d3ade75309e", false},
		{10, "ima-sig", "/mnt/r/etc/conf", "sha256:" + strings.Repeat("0", 64), true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

// The entries of the other PCR stand apart, whichever is replayed.
func TestCapturedOthers(t *testing.T) {
	bank := attest.SHA256
	v := verified(t, capturedPCRs(t, "fx-ovmf-pcr11", bank))
	list := parsed(t, "fx-ovmf-pcr11", bank)["binary"]
	for index, own := range map[int]int{10: 3, 11: 15} {
		replayed, failures := list.Replay(v, Request{PCR: index})
		if failures != nil {
			t.Fatal(failures)
		}
		for _, e := range replayed.Entries() {
			if e.PCR != index {
				t.Errorf("PCR %d: entry %d is of PCR %d", index, e.Position, e.PCR)
			}
		}
		if len(replayed.Entries()) != own || len(replayed.Others()) != 18-own {
			t.Errorf("PCR %d: %d entries and %d others", index, len(replayed.Entries()), len(replayed.Others()))
		}
		if got := replayed.State().Position; got != 18 {
			t.Errorf("PCR %d: position %d: entries of other PCRs after the last own one are passed", index, got)
		}
	}
}

// The vectors of Keylime's simulated list (testdata/README.md).
func TestKeylimeVector(t *testing.T) {
	list, err := ParseASCII(readCapture(t, "keylime-wire", "ima.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"sha1:ecc27c3f1cf83770c983ebb82d58e87f3a35c9fa",
		"sha256:b13c30adc75305281d204a7893450cb86dee7bf877fee50a268b60de8467f0ef",
	} {
		d, err := attest.ParseDigest(want)
		if err != nil {
			t.Fatal(err)
		}
		v := verified(t, pcr.Values{Bank: d.Hash(), Digests: map[int]attest.Digest{10: d}})
		replayed, failures := list.Replay(v, Request{PCR: 10})
		if failures != nil || len(replayed.Entries()) != 4 {
			t.Errorf("%s: %d entries, %v", want, len(replayed.Entries()), failures)
		}
	}
}

// A kernel without SHA-384 and SHA-512 (lab-6.1) pads SHA-1 into their banks, but extends violations as ones over the whole size.
func TestPaddedBanks(t *testing.T) {
	ascii, err := ParseASCII(readCapture(t, "lab-6.1", "ascii_runtime_measurements"))
	if err != nil {
		t.Fatal(err)
	}
	binary, err := ParseBinary(readCapture(t, "lab-6.1", "binary_runtime_measurements"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(ascii.ASCII()), string(binary.ASCII())); diff != "" {
		t.Errorf("text and binary list differ (-text +binary):\n%s", diff)
	}
	for bank, forms := range map[attest.Hash]string{attest.SHA1: "native", attest.SHA256: "native", attest.SHA384: "padded-ones", attest.SHA512: "padded-ones"} {
		v := verified(t, capturedPCRs(t, "lab-6.1", bank))
		for _, list := range []List{ascii, binary} {
			replayed, failures := list.Replay(v, Request{PCR: 10})
			if failures != nil || len(replayed.Entries()) != list.Len() {
				t.Errorf("%s: %d of %d entries, %v", bank, len(replayed.Entries()), list.Len(), failures)
				continue
			}
			if got := replayed.State().Forms.String(); got != forms || replayed.Padded() != strings.HasPrefix(forms, "padded") {
				t.Errorf("%s: %s, padded %v", bank, got, replayed.Padded())
			}
		}
	}
}

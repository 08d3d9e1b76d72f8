package dossier_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/dossier"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/eventlog"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/evidence/quote/quotetest"
	"github.com/assay-project/assay/policy"
)

const firmwareCapture = "../evidence/eventlog/testdata/fx-ovmf-tcb-ng"

// machine makes dossiers of a simulated machine with the firmware log of a captured one: its evidence is real.
type machine struct {
	t          testing.TB
	signer, ek *quotetest.Signer
	pcrs       map[int]attest.Digest
	list       []byte
	log        []byte
}

func newMachine(t testing.TB, files ...string) *machine {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(firmwareCapture, "binary_bios_measurements"))
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, signer: quotetest.NewSigner(t, quotetest.ECDSAP256), ek: quotetest.NewSigner(t, quotetest.ECDSAP256), pcrs: map[int]attest.Digest{}, log: log}
	file, err := os.Open(filepath.Join(firmwareCapture, "pcrs.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if index, err := strconv.Atoi(words[1]); err == nil && words[0] == "sha256" && index < 10 {
			if m.pcrs[index], err = attest.ParseDigest("sha256:" + strings.ToLower(words[2])); err != nil {
				t.Fatal(err)
			}
		}
	}
	for p := 10; p < pcr.Count; p++ {
		m.pcrs[p] = pcr.Initial(attest.SHA256, p)
	}
	var all [][]byte
	for p := range 10 {
		all = append(all, m.pcrs[p].Bytes())
	}
	m.measure("boot_aggregate", attest.SHA256.Sum(all...))
	for _, name := range files {
		m.measure(name, attest.SHA256.Sum([]byte(name)))
	}
	return m
}

// measure appends an ima-ng entry and extends PCR 10 with it (security/integrity/ima/ima_template_lib.c).
func (m *machine) measure(path string, digest attest.Digest) {
	var data []byte
	for _, field := range [][]byte{append([]byte("sha256:\x00"), digest.Bytes()...), append([]byte(path), 0)} {
		data = append(binary.LittleEndian.AppendUint32(data, uint32(len(field))), field...)
	}
	m.list = fmt.Appendf(m.list, "10 %s ima-ng %s %s\n", attest.SHA1.Sum(data).Hex(), digest, path)
	m.pcrs[10] = pcr.Extend(m.pcrs[10], attest.SHA256.Sum(data).Bytes())
}

// ekPublic is a TPM2B_PUBLIC by the TCG's ECC template (EK Credential Profile, B.3.4) with the point of a test's key.
func (m *machine) ekPublic() []byte {
	public := m.ek.Public()
	area := append(binary.BigEndian.AppendUint16(nil, 0x0023), 0x00, 0x0b, 0x00, 0x03, 0x00, 0xb2, 0x00, 0x20)
	area = append(area, attest.SHA256.Sum([]byte("policy")).Bytes()...)
	area = append(area, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x00, 0x03, 0x00, 0x10)
	area = append(area, public[len(public)-68:]...)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(area))), area...)
}

func (m *machine) certificate(key any) []byte {
	m.t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "EK"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key, m.ek.Key())
	if err != nil {
		m.t.Fatal(err)
	}
	return der
}

var accepted = time.Date(2026, 11, 17, 15, 0, 0, 123, time.UTC)

// dossier quotes the machine as it is now.
func (m *machine) dossier(documents ...*policy.Document) dossier.Dossier {
	m.t.Helper()
	ek, err := endorsement.ParseEK(m.ekPublic())
	if err != nil {
		m.t.Fatal(err)
	}
	child := ek.QualifiedChild(m.signer.AK())
	d := dossier.Dossier{
		Node: "node-1", Boot: "boot-1", At: accepted, Nonce: "abcdefghij0123456789", AK: m.signer.Public(), EK: m.ekPublic(),
		Chain: [][]byte{m.certificate(m.ek.Key().Public())}, List: m.list, BootLog: m.log, Policies: []dossier.Policy{},
	}
	d.Quote = m.signer.Quote(quotetest.Options{
		Nonce: []byte(d.Nonce), Values: pcr.Values{Bank: attest.SHA256, Digests: m.pcrs}, Clock: quote.Clock{Clock: 7, ResetCount: 4, Safe: true},
		Edit: func(a *quotetest.Attest) { a.Signer = child },
	})
	for _, document := range documents {
		d.Policies = append(d.Policies, dossier.Policy{Ref: document.Ref(), Document: document.Bytes()})
	}
	return d
}

func document(t testing.TB, files ...string) *policy.Document {
	t.Helper()
	text := "apiVersion: policy.assay/v1\nkind: Runtime\nmetadata: {name: base}\nspec:\n  digests:\n"
	for _, name := range files {
		text += fmt.Sprintf("    %s: [%q]\n", name, attest.SHA256.Sum([]byte(name)))
	}
	d, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// reread writes a dossier with the digests that belong to it, and reads it again.
func reread(t testing.TB, d dossier.Dossier) dossier.Dossier {
	t.Helper()
	text, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	read, err := dossier.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return read
}

func verify(t testing.TB, d dossier.Dossier) dossier.Result {
	t.Helper()
	r, err := d.Verify(endorsement.NewRoots())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestDossierOfAGoodMachine(t *testing.T) {
	m := newMachine(t, "/bin/a", "/bin/b")
	d := m.dossier(document(t, "/bin/a", "/bin/b"))
	read := reread(t, d)
	read.Version, read.Digests = "", nil
	if diff := cmp.Diff(d, read, cmpopts.EquateComparable(attest.Digest{}, pcr.Selection{})); diff != "" {
		t.Errorf("read again (-want +got):\n%s", diff)
	}
	r := verify(t, d)
	if r.Verdict != attest.Trusted || r.Entries != 3 || !r.BoundToEK || len(r.Policies) != 1 || r.Unendorsed == "" || r.Clock.ResetCount != 4 {
		t.Errorf("have %+v", r)
	}
	if r := verify(t, m.dossier()); r.Verdict != attest.Unappraised || len(r.Failures) != 0 {
		t.Errorf("without documents: %+v", r)
	}
	if r := verify(t, m.dossier(document(t, "/bin/a"))); r.Verdict != attest.Failed || r.Failures[0].ID != attest.FileNotInPolicy || r.Failures[0].Path != "/bin/b" {
		t.Errorf("with a file that no document lists: %+v", r)
	}
}

// Whoever checks a file trusts roots and keys of their own: the file is endorsed by these alone.
func TestEndorsementOfADossier(t *testing.T) {
	m, other := newMachine(t), newMachine(t)
	for name, row := range map[string]struct {
		listed []byte
		want   bool
	}{"its EK is listed": {m.ekPublic(), true}, "another EK is listed": {other.ekPublic(), false}} {
		t.Run(name, func(t *testing.T) {
			ek, err := endorsement.ParseEK(row.listed)
			if err != nil {
				t.Fatal(err)
			}
			roots := endorsement.NewRoots()
			if err := roots.AddKey(ek.ID()); err != nil {
				t.Fatal(err)
			}
			r, err := reread(t, m.dossier(document(t, "/bin/a"))).Verify(roots)
			if err != nil || r.Verdict != attest.Trusted {
				t.Fatalf("%+v, %v", r, err)
			}
			if endorsed := r.Unendorsed == ""; endorsed != row.want {
				t.Errorf("endorsed: %t, %q", endorsed, r.Unendorsed)
			}
		})
	}
}

// What the list showed beyond the quote is not proven: it is cut off where the file is made, and fails where somebody appends it.
func TestListBeyondTheQuote(t *testing.T) {
	m := newMachine(t, "/bin/a")
	d := m.dossier(document(t, "/bin/a"))
	covered := m.list
	m.measure("/bin/later", attest.SHA256.Sum(nil))
	if have := d.Covered(m.list); !bytes.Equal(have, covered) {
		t.Errorf("covered is %q", have)
	}
	for _, hopeless := range []string{"no list", string(m.list[:20]), string(m.list[len(covered):])} {
		if have := d.Covered([]byte(hopeless)); string(have) != hopeless {
			t.Errorf("%q became %q", hopeless, have)
		}
	}
	d.List = m.list
	if r := verify(t, d); r.Verdict != attest.Failed || r.Failures[0].ID != attest.ListPcrMismatch || !strings.Contains(r.Failures[0].Detail, "last 1 entries") {
		t.Errorf("have %+v", r)
	}
	d.List = covered
	if r := verify(t, d); r.Verdict != attest.Trusted {
		t.Errorf("without it: %+v", r)
	}
}

// flip changes one bit in the middle of a copy.
func flip(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return b
}

// firmwareDigest is where a log holds the digest of an event that was extended.
func firmwareDigest(t *testing.T, text []byte) int {
	t.Helper()
	log, err := eventlog.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	sum, _ := log.Events()[len(log.Events())/2].Digest(attest.SHA256)
	return bytes.Index(text, sum.Bytes())
}

// Each part, changed in one byte: a digest that was not adapted names the part; with the digest adapted the evidence fails by its ID.
func TestChangedByte(t *testing.T) {
	good := func(t *testing.T) dossier.Dossier { return newMachine(t, "/bin/a").dossier(document(t, "/bin/a")) }
	other := newMachine(t)
	for name, row := range map[string]struct {
		part   string
		change func(d *dossier.Dossier)
		ids    []attest.FailureID // any of them
		err    string             // instead
	}{
		"signature":      {"quote", func(d *dossier.Dossier) { d.Quote.Signature = flip(d.Quote.Signature) }, []attest.FailureID{attest.QuoteSignatureInvalid}, ""},
		"attestation":    {"quote", func(d *dossier.Dossier) { d.Quote.Attest = flip(d.Quote.Attest) }, []attest.FailureID{attest.QuoteSignatureInvalid, attest.QuoteMalformed}, ""},
		"quoted value":   {"quote", func(d *dossier.Dossier) { d.Quote.Digests[3] = flip(d.Quote.Digests[3]) }, []attest.FailureID{attest.PcrDigestMismatch}, ""},
		"selection":      {"quote", func(d *dossier.Dossier) { d.Quote.Selections[0].Mask ^= 1 << 23 }, []attest.FailureID{attest.SelectionMismatch, attest.QuoteMalformed}, ""},
		"no selection":   {"quote", func(d *dossier.Dossier) { d.Quote.Selections, d.Quote.Digests = nil, nil }, []attest.FailureID{attest.QuoteMalformed}, ""},
		"nonce":          {"nonce", func(d *dossier.Dossier) { d.Nonce = string(flip([]byte(d.Nonce))) }, []attest.FailureID{attest.NonceMismatch}, ""},
		"another AK":     {"ak", func(d *dossier.Dossier) { d.AK = other.signer.Public() }, []attest.FailureID{attest.QuoteSignatureInvalid}, ""},
		"a byte of AK":   {"ak", func(d *dossier.Dossier) { d.AK = flip(d.AK) }, []attest.FailureID{attest.QuoteSignatureInvalid, attest.AkUnknown, attest.AkAttributes}, ""},
		"another EK":     {"ek", func(d *dossier.Dossier) { d.EK = other.ekPublic() }, []attest.FailureID{attest.EkNotEndorsed}, ""},
		"no EK":          {"ek", func(d *dossier.Dossier) { d.EK = d.EK[:9] }, []attest.FailureID{attest.EkNotEndorsed}, ""},
		"certificate":    {"chain 0", func(d *dossier.Dossier) { d.Chain = [][]byte{other.certificate(other.ek.Key().Public())} }, []attest.FailureID{attest.EkNotEndorsed}, ""},
		"no certificate": {"chain 0", func(d *dossier.Dossier) { d.Chain = [][]byte{[]byte("junk")} }, []attest.FailureID{attest.EkNotEndorsed}, ""},
		"digest in list": {"list", func(d *dossier.Dossier) { d.List[bytes.LastIndex(d.List, []byte("sha256:"))+8] ^= 1 }, []attest.FailureID{attest.ListPcrMismatch, attest.ListMalformed, attest.TemplateHashMismatch}, ""},
		"name in list":   {"list", func(d *dossier.Dossier) { d.List[len(d.List)-2] ^= 2 }, []attest.FailureID{attest.ListPcrMismatch, attest.TemplateHashMismatch}, ""},
		"shorter list":   {"list", func(d *dossier.Dossier) { d.List = d.List[:bytes.IndexByte(d.List, '\n')+1] }, []attest.FailureID{attest.ListPcrMismatch, attest.ListRolledBack}, ""},
		"no list":        {"list", func(d *dossier.Dossier) { d.List = nil }, []attest.FailureID{attest.EvidenceMissing}, ""},
		"boot log": {"bootLog", func(d *dossier.Dossier) { d.BootLog[firmwareDigest(t, d.BootLog)] ^= 1 },
			[]attest.FailureID{attest.EventLogPcrMismatch, attest.EventLogMalformed}, ""},
		"data of an event":  {"bootLog", func(d *dossier.Dossier) { d.BootLog[len(d.BootLog)/4] ^= 1 }, nil, ""}, // firmware extends digests, not all data
		"document":          {"policy 0", func(d *dossier.Dossier) { d.Policies[0].Document = flip(d.Policies[0].Document) }, nil, `policy "base"`},
		"document's digest": {"policy 0", func(d *dossier.Dossier) { d.Policies[0].Ref.Digest = attest.SHA256.Sum(nil) }, nil, `policy "base"`},
		"node":              {"about", func(d *dossier.Dossier) { d.Node = "node-2" }, nil, ""}, // the server's word alone: no quote holds it
	} {
		t.Run(name, func(t *testing.T) {
			d := reread(t, good(t))
			if r := verify(t, d); r.Verdict != attest.Trusted {
				t.Fatalf("without the fault: %+v", r)
			}
			digests := d.Digests
			row.change(&d)
			text, err := d.Encode()
			if err != nil {
				t.Fatal(err)
			}
			have := reread(t, d).Digests // those of the changed parts; put back the first ones
			for part, digest := range digests {
				text = bytes.Replace(text, fmt.Appendf(nil, "%q: %q", part, have[part]), fmt.Appendf(nil, "%q: %q", part, digest), 1)
			}
			var changed *dossier.ChangedError
			if _, err := dossier.Parse(text); !errors.As(err, &changed) || changed.Part != row.part {
				t.Errorf("digest kept: %v, want %q named", err, row.part)
			}
			r, err := reread(t, d).Verify(endorsement.NewRoots())
			switch {
			case row.err != "":
				if err == nil || !strings.Contains(err.Error(), row.err) {
					t.Errorf("digest adapted: %v, want %q", err, row.err)
				}
			case err != nil:
				t.Error(err)
			case row.ids != nil && (r.Verdict != attest.Failed || !slices.Contains(row.ids, r.Failures[0].ID)):
				t.Errorf("digest adapted: %s by %v, want one of %v", r.Verdict, r.Failures, row.ids)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	text, err := newMachine(t).dossier().Encode()
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, by string) string { return strings.Replace(string(text), old, by, 1) }
	for name, row := range map[string]struct{ text, want string }{
		"nothing":         {"", "no dossier"},
		"another version": {replace("assay.dossier/v1", "assay.dossier/v2"), `version "assay.dossier/v2"`},
		"trailing bytes":  {string(text) + " ", "from byte"},
		"unknown member":  {replace(`"nonce"`, `"nonsense": 1, "nonce"`), "unknown field"},
		"twice":           {replace(`"boot"`, `"boot": "x", "boot"`), "from byte"},
		"a missing part":  {replace(`"digests": {`, `"digests": {`+"\n    \"a\": \"sha256:"+strings.Repeat("0", 64)+"\","), `the part "a" is missing`},
		"no digest":       {replace(attest.SHA256.Sum([]byte("abcdefghij0123456789")).String(), ""), "nonce: it was changed"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := dossier.Parse([]byte(row.text)); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("have %v, want %q", err, row.want)
			}
		})
	}
	if _, err := dossier.Parse(text); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	text, err := newMachine(f).dossier().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"version": "assay.dossier/v1"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := dossier.Parse(text)
		if err != nil {
			return
		}
		if again, err := d.Encode(); err != nil || !bytes.Equal(again, text) {
			t.Errorf("written again it is another: %v", err)
		}
		_, _ = d.Verify(endorsement.NewRoots())
	})
}

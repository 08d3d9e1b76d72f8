package eventlog_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/eventlog"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
)

// booted returns what a TPM holds after extending data into PCRs, as pairs of a PCR and data, started at a locality.
func booted(bank attest.Hash, locality byte, entries ...entry) pcr.Values {
	values := pcr.Values{Bank: bank, Digests: map[int]attest.Digest{}}
	for p := range 10 {
		values.Digests[p] = pcr.Initial(bank, p)
	}
	start := make([]byte, bank.Size())
	start[bank.Size()-1] = locality
	zero, err := attest.NewDigest(bank, start)
	if err != nil {
		panic(err)
	}
	values.Digests[0] = zero
	for _, e := range entries {
		if e.kind != noAction {
			p := int(e.pcr)
			values.Digests[p] = pcr.Extend(values.Digests[p], bank.Sum([]byte(e.data)).Bytes())
		}
	}
	return values
}

func TestReplayOfBothForms(t *testing.T) {
	entries := []entry{{pcr: 0, kind: 8, data: "version"}, {pcr: 4, kind: 0x80000003, data: "loader"}, {pcr: 0, kind: separator, data: "0000"}}
	tests := map[string]struct {
		log   []byte
		banks []attest.Hash
	}{
		"crypto-agile": {agileLog(attest.Hashes(), entries...), attest.Hashes()},
		"SHA-1":        {sha1Log(entries...), []attest.Hash{attest.SHA1}},
		"SHA-1 with the header of TPM 1.2": {
			append(sha1Event(entry{kind: noAction, data: "Spec ID Event02\x00and more"}), sha1Log(entries...)...), []attest.Hash{attest.SHA1},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			log := parse(t, tt.log)
			if diff := cmp.Diff(tt.banks, log.Banks()); diff != "" {
				t.Errorf("banks (-want +got):\n%s", diff)
			}
			for _, bank := range tt.banks {
				replayed, failures := log.Replay(verified(t, booted(bank, 0, entries...)), pcr.Selection{})
				if len(failures) > 0 || !replayed.Valid() {
					t.Errorf("%s: valid %t, failures %v", bank, replayed.Valid(), failures)
				}
				if got := len(replayed.Events()); got != len(entries) {
					t.Errorf("%s: %d proven events, want %d", bank, got, len(entries))
				}
			}
		})
	}
}

// Where PCR 0 starts, and the one accepted deviation in how firmware says so.
func TestReplayFromTheStartupLocality(t *testing.T) {
	measured := entry{pcr: 0, kind: 8, data: "version"}
	located := func(data string) entry { return entry{kind: noAction, data: "StartupLocality\x00" + data} }
	tests := map[string]struct {
		entries  []entry
		locality byte
		quirks   []eventlog.Quirk
	}{
		"not stated":                 {[]entry{measured}, 0, nil},
		"0":                          {[]entry{located("\x00"), measured}, 0, nil},
		"3":                          {[]entry{located("\x03"), measured}, 3, nil},
		"4":                          {[]entry{located("\x04"), {kind: hcrtm, data: "HCRTM"}, measured}, 4, nil},
		"4, told by the event alone": {[]entry{{kind: hcrtm, data: "HCRTM"}, measured}, 4, nil},
		"HCRTM that comes later":     {[]entry{measured, {kind: hcrtm, data: "HCRTM"}}, 0, nil},
		"another name":               {[]entry{{kind: noAction, data: "StartupLocalitx\x00\x03"}, measured}, 0, nil},
		"for another PCR":            {[]entry{{pcr: 1, kind: noAction, data: "StartupLocality\x00\x03"}, measured}, 0, nil},
		"filled with zeros":          {[]entry{located("\x03" + strings.Repeat("\x00", 111)), measured}, 3, []eventlog.Quirk{eventlog.PaddedStartupLocality}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			log := parse(t, agileLog(twoBanks, tt.entries...))
			if got := log.Locality(); got != int(tt.locality) {
				t.Errorf("locality %d, want %d", got, tt.locality)
			}
			for _, bank := range twoBanks {
				replayed, failures := log.Replay(verified(t, booted(bank, tt.locality, tt.entries...)), pcr.Selection{})
				if len(failures) > 0 {
					t.Errorf("%s: %v", bank, failures)
				}
				if diff := cmp.Diff(tt.quirks, replayed.Quirks()); diff != "" {
					t.Errorf("quirks (-want +got):\n%s", diff)
				}
				other := booted(bank, 7-tt.locality, tt.entries...)
				if _, failures := log.Replay(verified(t, other), pcr.Selection{}); len(failures) != 1 || failures[0].ID != attest.EventLogPcrMismatch {
					t.Errorf("%s, started elsewhere: %v", bank, failures)
				}
			}
		})
	}
}

// Each row changes one thing of a boot that otherwise replays.
func TestReplayRefuses(t *testing.T) {
	entries := func() []entry {
		return []entry{{pcr: 0, kind: 8, data: "version"}, {pcr: 4, kind: 0x80000003, data: "shim"}, {pcr: 4, kind: 0x80000003, data: "grub"}}
	}
	tests := map[string]struct {
		change func([]entry) []entry
		want   []attest.FailureID
	}{
		"an event left out":       {func(e []entry) []entry { return e[:2] }, []attest.FailureID{attest.EventLogPcrMismatch}},
		"an event added":          {func(e []entry) []entry { return append(e, e[2]) }, []attest.FailureID{attest.EventLogPcrMismatch}},
		"events in other order":   {func(e []entry) []entry { return []entry{e[0], e[2], e[1]} }, []attest.FailureID{attest.EventLogPcrMismatch}},
		"a digest changed":        {func(e []entry) []entry { e[1].digests = digestsOf("evil", twoBanks...); return e }, []attest.FailureID{attest.EventLogPcrMismatch}},
		"an event of another PCR": {func(e []entry) []entry { e[1].pcr = 5; return e }, []attest.FailureID{attest.EventLogPcrMismatch, attest.EventLogPcrMismatch}},
		"an event made silent":    {func(e []entry) []entry { e[0].kind = noAction; return e }, []attest.FailureID{attest.EventLogPcrMismatch}},
		"a bank left out of an event": {
			func(e []entry) []entry { e[0].digests = digestsOf("version", attest.SHA1); return e },
			[]attest.FailureID{attest.EventLogPcrMismatch, attest.EventLogPcrMismatch},
		},
	}
	quoted := verified(t, booted(attest.SHA256, 0, entries()...))
	if _, failures := parse(t, agileLog(twoBanks, entries()...)).Replay(quoted, pcr.Selection{}); len(failures) > 0 {
		t.Fatalf("without the fault: %v", failures)
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			replayed, failures := parse(t, agileLog(twoBanks, tt.change(entries())...)).Replay(quoted, pcr.Selection{})
			if diff := cmp.Diff(tt.want, ids(failures)); diff != "" {
				t.Errorf("failures (-want +got):\n%s", diff)
			}
			if replayed.Valid() || len(replayed.Events()) > 0 || replayed.Bank() != 0 {
				t.Error("a refused log gave a Replayed that holds something")
			}
		})
	}
}

func ids(failures []attest.Failure) []attest.FailureID {
	var ids []attest.FailureID
	for _, f := range failures {
		ids = append(ids, f.ID)
	}
	return ids
}

func TestReplayNeedsVerifiedValuesOfItsBanks(t *testing.T) {
	log := parse(t, agileLog(twoBanks, entry{pcr: 0, kind: separator, data: "x"}))
	values := func(bank attest.Hash) pcr.Values { return booted(bank, 0, entry{pcr: 0, kind: separator, data: "x"}) }
	onlyList := pcr.Values{Bank: attest.SHA256, Digests: map[int]attest.Digest{10: pcr.Initial(attest.SHA256, 10), 17: pcr.Initial(attest.SHA256, 17)}}
	tests := map[string]struct {
		quoted quote.Verified
		want   []attest.FailureID
	}{
		"a good quote":       {verified(t, values(attest.SHA256)), nil},
		"the zero value":     {quote.Verified{}, []attest.FailureID{attest.EvidenceUnverified}},
		"a bank not logged":  {verified(t, values(attest.SHA384)), []attest.FailureID{attest.EventLogPcrMismatch}},
		"nothing to compare": {verified(t, onlyList), []attest.FailureID{attest.EvidenceMissing}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			replayed, failures := log.Replay(tt.quoted, listPCRs)
			if diff := cmp.Diff(tt.want, ids(failures)); diff != "" {
				t.Errorf("failures (-want +got):\n%s", diff)
			}
			if replayed.Valid() != (tt.want == nil) {
				t.Errorf("valid %t", replayed.Valid())
			}
		})
	}
	if (eventlog.Replayed{}).Valid() {
		t.Error("the zero Replayed is valid")
	}
}

// A log with very many incomplete events yields no more failures than a result holds.
func TestReplayBoundsItsFailures(t *testing.T) {
	entries := make([]entry, 3*attest.MaxFailures)
	for i := range entries {
		entries[i] = entry{pcr: 1, kind: separator, digests: digestsOf("", attest.SHA1)}
	}
	_, failures := parse(t, agileLog(twoBanks, entries...)).Replay(verified(t, booted(attest.SHA256, 0)), pcr.Selection{})
	if len(failures) == 0 || len(failures) > attest.MaxFailures+pcr.Count {
		t.Errorf("%d failures", len(failures))
	}
}

// Events of PCRs that were not compared are not among the proven ones.
func TestReplayedHoldsComparedEventsOnly(t *testing.T) {
	entries := []entry{{pcr: 0, kind: separator, data: "x"}, {pcr: 11, kind: separator, data: "of a stub"}, {pcr: 14, kind: separator, data: "not quoted"}}
	replayed, failures := parse(t, agileLog(twoBanks, entries...)).Replay(verified(t, booted(attest.SHA256, 0, entries[0])), listPCRs)
	if len(failures) > 0 || len(replayed.Events()) != 1 || replayed.Events()[0].PCR != 0 {
		t.Errorf("events %v, failures %v", replayed.Events(), failures)
	}
}

// The kernel hashes PCR 0 to 7 in the SHA-1 bank, 0 to 9 in the others; before 5.8 it was 0 to 7 there too.
func TestBootAggregates(t *testing.T) {
	upTo := func(bank attest.Hash, count int) pcr.Values {
		values := pcr.Values{Bank: bank, Digests: map[int]attest.Digest{}}
		for p := range count {
			values.Digests[p] = bank.Sum([]byte{byte(p)})
		}
		return values
	}
	tests := map[string]struct {
		values pcr.Values
		want   []int // over the first so many PCRs
	}{
		"sha1":          {upTo(attest.SHA1, 24), []int{8}},
		"sha256":        {upTo(attest.SHA256, 24), []int{8, 10}},
		"sha512":        {upTo(attest.SHA512, 10), []int{8, 10}},
		"without PCR 9": {upTo(attest.SHA256, 9), []int{8}},
		"without PCR 7": {upTo(attest.SHA256, 7), nil},
		"no bank":       {pcr.Values{}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var want []string
			for _, count := range tt.want {
				// The composite of the first PCRs in the bank's own algorithm is the kernel's rule in other words.
				want = append(want, upTo(tt.values.Bank, count).Composite(tt.values.Bank).String())
			}
			var got []string
			for _, digest := range eventlog.BootAggregates(tt.values) {
				got = append(got, digest.String())
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("aggregates (-want +got):\n%s", diff)
			}
		})
	}
}

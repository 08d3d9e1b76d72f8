package eventlog_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/eventlog"
)

var twoBanks = []attest.Hash{attest.SHA1, attest.SHA256}

func TestParseTellsEvents(t *testing.T) {
	log := parse(t, agileLog(twoBanks, entry{pcr: 7, kind: separator, data: "data"}, entry{pcr: 0xffffffff, kind: noAction, data: "a reference manifest"}))
	events := log.Events()
	if len(events) != 3 {
		t.Fatalf("%d events, want the header and 2", len(events))
	}
	event := events[1]
	if event.Number != 1 || event.PCR != 7 || event.Type != separator || string(event.Data) != "data" {
		t.Errorf("event %d: PCR %d, type %d, data %q", event.Number, event.PCR, event.Type, event.Data)
	}
	for _, bank := range twoBanks {
		if got, ok := event.Digest(bank); !ok || got != bank.Sum([]byte("data")) {
			t.Errorf("%s: %s, %t", bank, got, ok)
		}
	}
	if got, ok := event.Digest(attest.SHA512); ok {
		t.Errorf("a sha512 digest: %s", got)
	}
}

// SM3 is declared by firmware for the Chinese market; its digests are passed over by their declared size.
func TestParsePassesUnknownAlgorithms(t *testing.T) {
	const sm3 = attest.Hash(0x12)
	log := header(attest.SHA256, sm3)
	log[len(log)-3] = 32 // the size of sm3, which the builder does not know
	list := digestsOf("x", attest.SHA256)
	list[0] = 2
	list = append(append(list, 0x12, 0), make([]byte, 32)...)
	whole := append(log, agileLog(nil, entry{pcr: 1, kind: separator, digests: list})[len(header()):]...)
	parsed := parse(t, whole)
	if diff := cmp.Diff([]attest.Hash{attest.SHA256}, parsed.Banks()); diff != "" {
		t.Errorf("banks (-want +got):\n%s", diff)
	}
	if got := parsed.Events()[1].Digests; len(got) != 1 || got[0] != attest.SHA256.Sum([]byte("x")) {
		t.Errorf("digests %v", got)
	}
}

func TestParseRefuses(t *testing.T) {
	good := agileLog(twoBanks, entry{pcr: 0, kind: separator, data: "0000"})
	afterHeader := len(header(twoBanks...))
	change := func(at int, value ...byte) []byte {
		log := bytes.Clone(good)
		copy(log[at:], value)
		return log
	}
	locality := func(data string) []byte {
		return agileLog(twoBanks, entry{kind: noAction, data: "StartupLocality\x00" + data})
	}
	twice := append(digestsOf("x", attest.SHA1), digestsOf("x", attest.SHA1)[4:]...)
	twice[0] = 2
	const tableAt = 32 + 16 + 8 // event head, signature, versions
	tests := map[string]struct {
		log  []byte
		want string
	}{
		"empty":                       {nil, "it is empty"},
		"too large":                   {make([]byte, eventlog.MaxBytes+1), "more than 16777216"},
		"zeros after the end":         {append(bytes.Clone(good), 0, 0, 0, 0), "event 2 at offset"},
		"PCR 24":                      {change(afterHeader, 24), "PCR 24 is beyond 23"},
		"PCR of 32 bits":              {change(afterHeader, 0xff, 0xff, 0xff, 0xff), "PCR 4294967295 is beyond 23"},
		"no digests":                  {change(afterHeader+8, 0), "0 digests for 2 algorithms"},
		"many digests":                {change(afterHeader+8, 0xff, 0xff, 0xff, 0xff), "4294967295 digests for 2 algorithms"},
		"undeclared algorithm":        {change(afterHeader+12, 0x0c), "a digest of sha384, which the header does not declare"},
		"an algorithm twice":          {agileLog(twoBanks, entry{kind: separator, digests: twice}), "a second digest of sha1"},
		"data longer than the log":    {change(len(good)-8, 0xff, 0xff, 0xff, 0xff), "4294967295 bytes wanted"},
		"header without algorithms":   {change(tableAt, 0), "header: 0 algorithms"},
		"header with many algorithms": {change(tableAt, 17), "header: 17 algorithms"},
		"header cut short":            {change(tableAt, 3), "header: "},
		"header with a wrong size":    {change(tableAt+6, 32), "header: sha1 with 32 bytes, not 20"},
		"header with one twice":       {header(attest.SHA256, attest.SHA256), "header: sha256 twice"},
		"header with more behind":     {sha1Event(entry{kind: noAction, data: string(header(attest.SHA1)[32:]) + "more"}), "header: 4 bytes after"},
		"locality 1":                  {locality("\x01"), "StartupLocality 1 is none of 0, 3 and 4"},
		"locality missing":            {locality(""), "StartupLocality without a locality"},
		"locality with other filling": {locality("\x03\x00\x01"), "followed by 2 bytes that are not zero"},
		"locality twice": {agileLog(twoBanks, entry{kind: noAction, data: "StartupLocality\x00\x03"},
			entry{kind: noAction, data: "StartupLocality\x00\x03"}), "event 2 at offset"},
		"locality after an extend": {agileLog(twoBanks, entry{kind: separator, data: "x"},
			entry{kind: noAction, data: "StartupLocality\x00\x03"}), "StartupLocality after PCR 0 was extended"},
	}
	parse(t, good)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := eventlog.Parse(tt.log); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

// A captured log cut anywhere but between two events is refused; cut there it parses, and replay tells.
func TestParseOfEveryTruncation(t *testing.T) {
	for name, whole := range map[string][]byte{
		"crypto-agile": readMachines(t)[0].log,
		"SHA-1":        sha1Log(entry{pcr: 0, kind: separator, data: "a"}, entry{pcr: 1, kind: separator, data: "bb"}),
	} {
		count := len(parse(t, whole).Events())
		accepted := 0
		for n := range len(whole) {
			if log, err := eventlog.Parse(whole[:n]); err == nil {
				accepted++
				if got := len(log.Events()); got >= count {
					t.Errorf("%s: the first %d bytes hold all %d events", name, n, got)
				}
			}
		}
		if accepted != count-1 {
			t.Errorf("%s: %d truncations parse, want the %d between events", name, accepted, count-1)
		}
	}
}

func TestParseKeepsItsOwnBytes(t *testing.T) {
	data := sha1Log(entry{pcr: 1, kind: separator, data: "mine"})
	log := parse(t, data)
	clear(data)
	if got := string(log.Events()[0].Data); got != "mine" {
		t.Errorf("data %q after the caller cleared its buffer", got)
	}
}

// FuzzParse: no input makes Parse panic, and what parses is no larger than its input allows.
func FuzzParse(f *testing.F) {
	for _, m := range readMachines(f) {
		f.Add(m.log)
	}
	f.Add(sha1Log(entry{pcr: 4, kind: separator, data: "loader"}))
	f.Add(agileLog(twoBanks, entry{kind: noAction, data: "StartupLocality\x00\x03"}, entry{kind: hcrtm, data: "firmware"}))
	f.Add(header(attest.SHA256)[:40])
	f.Fuzz(func(t *testing.T, data []byte) {
		log, err := eventlog.Parse(data)
		if err != nil {
			return
		}
		total := 0
		for _, event := range log.Events() {
			total += len(event.Data)
			if len(event.Digests) > len(log.Banks()) && event.Number > 0 {
				t.Errorf("event %d has %d digests for %d banks", event.Number, len(event.Digests), len(log.Banks()))
			}
		}
		if total > len(data) {
			t.Errorf("%d bytes of data in a log of %d", total, len(data))
		}
	})
}

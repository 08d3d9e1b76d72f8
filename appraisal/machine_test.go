package appraisal

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/eventlog"
	"github.com/assay-project/assay/evidence/ima"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/evidence/quote/quotetest"
	"github.com/assay-project/assay/policy"
)

// measurement is one entry of a simulated machine's list, written straight from the kernel's description of templates.
type measurement struct {
	template  string // "" is ima-ng
	digest    attest.Digest
	name      string
	tail      []byte
	violation bool
}

func content(s string) attest.Digest { return attest.SHA256.Sum([]byte(s)) }

func file(name, text string) measurement {
	return measurement{digest: content(text), name: name}
}

func buffer(name string, bytes []byte) measurement {
	return measurement{template: "ima-buf", digest: attest.SHA256.Sum(bytes), name: name, tail: bytes}
}

func (m measurement) templateName() string {
	if m.template == "" {
		return "ima-ng"
	}
	return m.template
}

func (m measurement) prefix() string {
	if m.template == "ima-sigv2" {
		return "verity:" + m.digest.Hash().String() + ":"
	}
	return m.digest.Hash().String() + ":"
}

func (m measurement) data() []byte {
	out := sized(append([]byte(m.prefix()+"\x00"), m.digest.Bytes()...))
	out = append(out, sized([]byte(m.name+"\x00"))...)
	if m.templateName() != "ima-ng" {
		out = append(out, sized(m.tail)...)
	}
	return out
}

func sized(b []byte) []byte {
	n := len(b)
	return append([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}, b...)
}

func (m measurement) line() string {
	column := attest.SHA1.Sum(m.data()).Hex()
	if m.violation {
		column = strings.Repeat("0", 40)
	}
	line := fmt.Sprintf("10 %s %s %s%s %s", column, m.templateName(), m.prefix(), m.digest.Hex(), m.name)
	if m.templateName() != "ima-ng" {
		line += fmt.Sprintf(" %x", m.tail)
	}
	return line + "\n"
}

// extended is what the kernel extends.
func (m measurement) extended(bank attest.Hash, padded bool) []byte {
	switch {
	case m.violation:
		ones := make([]byte, bank.Size())
		for i := range ones {
			ones[i] = 0xff
		}
		return ones
	case padded:
		return pcr.Pad(bank, attest.SHA1.Sum(m.data()).Bytes())
	}
	return bank.Sum(m.data()).Bytes()
}

// machine is a simulated machine with the documents that apply to it.
type machine struct {
	bank     attest.Hash
	boot     map[int]attest.Digest // PCRs 0 to 9
	entries  []measurement
	padded   bool
	runtimes []map[string]any // specs
	pcrs     []map[string]any
	omit     int // a PCR that is not quoted, or -1
	refused  []attest.Digest
	progress Progress
	state    ima.State
}

// rules is the machine's IMA policy.
const rules = "measure func=BPRM_CHECK\n"

// newMachine is healthy: its evidence passes its documents.
func newMachine() *machine {
	m := &machine{bank: attest.SHA256, boot: map[int]attest.Digest{}, omit: -1}
	var values []byte
	for p := range 10 {
		m.boot[p] = attest.SHA256.Sum([]byte{byte(p)})
		values = append(values, m.boot[p].Bytes()...)
	}
	m.entries = []measurement{
		{digest: attest.SHA256.Sum(values), name: "boot_aggregate"},
		file("/usr/lib/systemd/systemd", "systemd"),
		file(policy.PolicyPath, rules),
		file("/usr/bin/a", "a"),
		file("/usr/bin/with_space", "b"),
	}
	m.runtimes = []map[string]any{{
		"digests": map[string]any{
			"/usr/lib/systemd/systemd": []any{content("systemd").String()},
			"/usr/bin/a":               []any{content("a").String(), content("old a").String()},
			"/usr/bin/with space":      []any{content("b").String()},
		},
		"earlyBoot":   []any{"/usr/lib/systemd/.*"},
		"imaPolicies": []any{content(rules).String()},
		"excludes":    []any{"/tmp/.*"},
	}}
	return m
}

func (m *machine) documents(t testing.TB) []*policy.Document {
	t.Helper()
	var all []*policy.Document
	for i, spec := range m.runtimes {
		all = append(all, document(t, policy.KindRuntime, fmt.Sprintf("runtime-%d", i), spec))
	}
	for i, spec := range m.pcrs {
		all = append(all, document(t, policy.KindPcr, fmt.Sprintf("pcr-%d", i), spec))
	}
	return all
}

func document(t testing.TB, kind, name string, spec map[string]any) *policy.Document {
	t.Helper()
	text, err := json.Marshal(map[string]any{"apiVersion": policy.APIVersion, "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec})
	if err != nil {
		t.Fatal(err)
	}
	d, err := policy.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// values are the PCRs after all entries.
func (m *machine) values() pcr.Values {
	values := pcr.Values{Bank: m.bank, Digests: map[int]attest.Digest{}}
	for p, d := range m.boot {
		values.Digests[p] = d
	}
	list := pcr.Initial(m.bank, imaPCR)
	for _, e := range m.entries {
		list = pcr.Extend(list, e.extended(m.bank, m.padded))
	}
	values.Digests[imaPCR] = list
	delete(values.Digests, m.omit)
	return values
}

func (m *machine) list(t testing.TB) ima.List {
	t.Helper()
	var text strings.Builder
	for _, e := range m.entries[m.state.Position:] {
		text.WriteString(e.line())
	}
	list, err := ima.ParseASCII([]byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// input quotes, verifies and replays what is new since the machine's last round.
func (m *machine) input(t testing.TB) Input {
	t.Helper()
	verified := quotetest.Verified(t, m.values(), quote.Clock{Safe: true})
	in := Input{Evidence: Evidence{Quote: verified}, Policies: m.documents(t), Progress: m.progress, RefusedIMAPolicies: m.refused}
	if m.omit == imaPCR {
		return in
	}
	replayed, failures := m.list(t).Replay(verified, ima.Request{PCR: imaPCR, First: m.state.Position, From: m.state})
	if len(failures) > 0 {
		t.Fatalf("the made list does not replay: %v", failures)
	}
	in.Evidence.IMA = &replayed
	return in
}

// round appraises and keeps what the next round goes on from, as the verifier does.
func (m *machine) round(t testing.TB) attest.Result {
	t.Helper()
	in := m.input(t)
	result, progress := Appraise(in)
	m.progress, m.state = progress, in.Evidence.IMA.State()
	return result
}

func ids(failures []attest.Failure) []attest.FailureID {
	all := []attest.FailureID{}
	for _, f := range failures {
		all = append(all, f.ID)
	}
	return all
}

// The captures of testdata/README.md.
const (
	captureTCB = "fx-ovmf-tcb-sig"
	captureLab = "lab-6.1"
)

// captured reads a captured boot. The quote is made by a software key over its PCRs.
func captured(t testing.TB, capture string, bank attest.Hash) (Evidence, ima.List) {
	t.Helper()
	read := func(name string) []byte {
		text, err := os.ReadFile("testdata/" + capture + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	values := pcr.Values{Bank: bank, Digests: map[int]attest.Digest{}}
	for line := range strings.Lines(string(read("pcrs.txt"))) {
		fields := strings.Fields(line)
		p, err := strconv.Atoi(fields[1])
		if err != nil {
			t.Fatal(err)
		}
		if fields[0] == bank.String() && p <= imaPCR {
			if values.Digests[p], err = attest.ParseDigest(bank.String() + ":" + fields[2]); err != nil {
				t.Fatal(err)
			}
		}
	}
	verified := quotetest.Verified(t, values, quote.Clock{Safe: true})
	list, err := ima.ParseASCII(read("ascii_runtime_measurements"))
	if err != nil {
		t.Fatal(err)
	}
	replayed, failures := list.Replay(verified, ima.Request{PCR: imaPCR})
	if len(failures) > 0 {
		t.Fatal(failures)
	}
	log, err := eventlog.Parse(read("binary_bios_measurements"))
	if err != nil {
		t.Fatal(err)
	}
	boot, failures := log.Replay(verified, pcr.Select(bank, imaPCR))
	if len(failures) > 0 {
		t.Fatal(failures)
	}
	return Evidence{Quote: verified, IMA: &replayed, EventLog: &boot}, list
}

package appraisal

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/ima"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/evidence/quote/quotetest"
	"github.com/assay-project/assay/policy"
)

const benchEntries = 100_000

// bench is a list of 100,000 unsigned entries, a quote over it and a document that lists each of them.
type bench struct {
	text []byte
	// data are the template data of all entries, one behind the other, and ends where each ends: the best form for a loop that only hashes.
	data     []byte
	ends     []int
	value    attest.Digest
	verified quote.Verified
	document *policy.Document
}

func newBench(b *testing.B) bench {
	b.Helper()
	m := newMachine()
	m.runtimes = nil
	var made bench
	var text, spec strings.Builder
	fmt.Fprintf(&spec, `{"apiVersion":%q,"kind":%q,"metadata":{"name":"bench"},"spec":{"imaPolicies":[%q],"digests":{`, policy.APIVersion, policy.KindRuntime, content(rules))
	m.entries = append(m.entries[:1], m.entries[2])
	for i := range benchEntries - len(m.entries) {
		entry := file(fmt.Sprintf("/usr/lib/python3/dist-packages/module%06d.so", i), fmt.Sprint(i))
		m.entries = append(m.entries, entry)
		if i > 0 {
			spec.WriteByte(',')
		}
		fmt.Fprintf(&spec, `%q:[%q]`, entry.name, entry.digest)
	}
	spec.WriteString("}}}")
	for _, e := range m.entries {
		text.WriteString(e.line())
		made.data = append(made.data, e.data()...)
		made.ends = append(made.ends, len(made.data))
	}
	made.text = []byte(text.String())
	made.value = m.values().Digests[imaPCR]
	made.verified = quotetest.Verified(b, m.values(), quote.Clock{Safe: true})
	var err error
	if made.document, err = policy.Parse([]byte(spec.String())); err != nil {
		b.Fatal(err)
	}
	return made
}

// BenchmarkReplayAppraise100k compares with the required hashes: for parsing, that of the list's column; for replay, the bank's hash of
// each entry and the extend. All parts take turns, so that a busy machine disturbs them alike. It reports the medians of the turns.
func BenchmarkReplayAppraise100k(b *testing.B) {
	made := newBench(b)
	parts := map[string][]float64{}
	for b.Loop() {
		columns, extends := taken(b, func() { made.hashColumns() }), taken(b, func() { made.hashExtends(b) })
		var list ima.List
		parse := taken(b, func() { list = made.parse(b) })
		judge := taken(b, func() { made.replayAppraise(b, list) })
		for unit, value := range map[string]float64{
			"hashes/judge": extends / judge,
			"hashes/whole": (columns + extends) / (parse + judge),
			"ns/hashes":    columns + extends,
			"ns/parse":     parse,
			"ns/judge":     judge,
			"ns/whole":     parse + judge,
		} {
			parts[unit] = append(parts[unit], value)
		}
	}
	for unit, values := range parts {
		slices.Sort(values)
		b.ReportMetric(values[len(values)/2], unit)
	}
	b.ReportMetric(0, "ns/op") // of all turns, which says nothing
}

// taken returns the processor time that a part takes, the collection of its garbage included. The clock on the wall also counts the time
// in which others ran.
func taken(b *testing.B, part func()) (nanoseconds float64) {
	before := processorTime(b)
	part()
	return processorTime(b) - before
}

func processorTime(b *testing.B) (nanoseconds float64) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return float64(usage.Utime.Nano() + usage.Stime.Nano())
}

func (made bench) hashColumns() (used byte) {
	begin := 0
	for _, end := range made.ends {
		sum := sha1.Sum(made.data[begin:end])
		begin, used = end, used^sum[0]
	}
	return used
}

func (made bench) hashExtends(b *testing.B) {
	var buf [2 * sha256.Size]byte
	begin := 0
	for _, end := range made.ends {
		*(*[sha256.Size]byte)(buf[sha256.Size:]) = sha256.Sum256(made.data[begin:end])
		*(*[sha256.Size]byte)(buf[:]) = sha256.Sum256(buf[:])
		begin = end
	}
	if !bytes.Equal(buf[:sha256.Size], made.value.Bytes()) {
		b.Fatal("the hashes do not replay")
	}
}

func (made bench) parse(b *testing.B) ima.List {
	list, err := ima.ParseASCII(made.text)
	if err != nil {
		b.Fatal(err)
	}
	return list
}

func (made bench) replayAppraise(b *testing.B, list ima.List) {
	replayed, failures := list.Replay(made.verified, ima.Request{PCR: imaPCR})
	if len(failures) > 0 {
		b.Fatal(failures)
	}
	made.appraise(b, &replayed)
}

// BenchmarkAppraise100k is the last part of BenchmarkReplayAppraise100k.
func BenchmarkAppraise100k(b *testing.B) {
	made := newBench(b)
	replayed, failures := made.parse(b).Replay(made.verified, ima.Request{PCR: imaPCR})
	if len(failures) > 0 {
		b.Fatal(failures)
	}
	b.ReportAllocs()
	for b.Loop() {
		made.appraise(b, &replayed)
	}
	perEntry(b)
}

func (made bench) appraise(b *testing.B, replayed *ima.Replayed) {
	result, progress := Appraise(Input{Evidence: Evidence{Quote: made.verified, IMA: replayed}, Policies: []*policy.Document{made.document}})
	if !result.Passed() || progress.Position != benchEntries {
		b.Fatalf("%+v", result.Failures)
	}
}

func perEntry(b *testing.B) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchEntries, "ns/entry")
}

package appraisal

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"strings"
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
	text     []byte
	data     [][]byte
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
		made.data = append(made.data, e.data())
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

// BenchmarkRequiredHashes is the floor: of each entry the hash in the list's column, the bank's hash and the extend, and nothing else.
func BenchmarkRequiredHashes(b *testing.B) {
	made := newBench(b)
	for b.Loop() {
		var buf [2 * sha256.Size]byte
		columns := byte(0)
		for _, d := range made.data {
			column := sha1.Sum(d)
			columns ^= column[0]
			sum := sha256.Sum256(d)
			copy(buf[sha256.Size:], sum[:])
			next := sha256.Sum256(buf[:])
			copy(buf[:], next[:])
		}
		if !bytes.Equal(buf[:sha256.Size], made.value.Bytes()) {
			b.Fatal("the floor does not replay")
		}
	}
	perEntry(b)
}

// BenchmarkReplayAppraise100k parses, replays and appraises the list.
func BenchmarkReplayAppraise100k(b *testing.B) {
	made := newBench(b)
	b.ReportAllocs()
	for b.Loop() {
		list, err := ima.ParseASCII(made.text)
		if err != nil {
			b.Fatal(err)
		}
		replayed, failures := list.Replay(made.verified, ima.Request{PCR: imaPCR})
		if len(failures) > 0 {
			b.Fatal(failures)
		}
		made.appraise(b, &replayed)
	}
	perEntry(b)
}

// BenchmarkAppraise100k is the last part of BenchmarkReplayAppraise100k.
func BenchmarkAppraise100k(b *testing.B) {
	made := newBench(b)
	list, err := ima.ParseASCII(made.text)
	if err != nil {
		b.Fatal(err)
	}
	replayed, failures := list.Replay(made.verified, ima.Request{PCR: imaPCR})
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

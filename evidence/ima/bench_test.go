package ima

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
)

const benchEntries = 100_000

// benchList makes an unsigned ima-ng list and the value of PCR 10 in the SHA-256 bank.
func benchList(tb testing.TB) (text []byte, data [][]byte, value attest.Digest) {
	tb.Helper()
	value = pcr.Initial(attest.SHA256, 10)
	for i := range benchEntries {
		file := sha256.Sum256(fmt.Append(nil, i))
		m := measurement{template: "ima-ng", prefix: "sha256:", digest: file[:], name: fmt.Sprintf("/usr/lib/python3/dist-packages/module%06d.so", i)}
		data = append(data, m.data())
		value = pcr.Extend(value, attest.SHA256.Sum(m.hashed()).Bytes())
		text = append(text, m.ascii(attest.SHA1)...)
	}
	return text, data, value
}

// BenchmarkHashesOnly is the floor: the column's hash, the bank's hash and the extend of each entry, and nothing else.
func BenchmarkHashesOnly(b *testing.B) {
	_, data, value := benchList(b)
	for b.Loop() {
		var buf [64]byte
		columns := byte(0)
		for _, d := range data {
			column := sha1.Sum(d)
			columns ^= column[0]
			sum := sha256.Sum256(d)
			copy(buf[32:], sum[:])
			next := sha256.Sum256(buf[:])
			copy(buf[:32], next[:])
		}
		if !bytes.Equal(buf[:32], value.Bytes()) {
			b.Fatal("the floor does not replay")
		}
	}
	perEntry(b)
}

// BenchmarkReplay parses the text, replays it and looks at the proven entries, as appraisal does.
func BenchmarkReplay(b *testing.B) {
	text, _, value := benchList(b)
	b.ReportAllocs()
	for b.Loop() {
		list, err := ParseASCII(text)
		if err != nil {
			b.Fatal(err)
		}
		replayed, failures := list.replay(value, Request{PCR: 10})
		if len(failures) > 0 {
			b.Fatal(failures)
		}
		count := 0
		for _, e := range replayed.All() {
			if e.Digest.Hash() == attest.SHA256 && e.Path != "" {
				count++
			}
		}
		if count != benchEntries {
			b.Fatal(count)
		}
	}
	perEntry(b)
}

// BenchmarkParse is the first part of BenchmarkReplay.
func BenchmarkParse(b *testing.B) {
	text, _, _ := benchList(b)
	for b.Loop() {
		if _, err := ParseASCII(text); err != nil {
			b.Fatal(err)
		}
	}
	perEntry(b)
}

func perEntry(b *testing.B) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchEntries, "ns/entry")
}

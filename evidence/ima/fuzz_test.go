package ima

import (
	"bytes"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
)

// touch reads everything that a list tells.
func touch(t *testing.T, l List) {
	t.Helper()
	count := 0
	for position, e := range l.All() {
		if int(position) != count || e.Position != position || e.PCR < 0 || e.PCR >= pcr.Count || len(e.Path) > MaxName {
			t.Fatalf("entry %d is %+v", count, e)
		}
		e.Fields()
		e.RawDigest()
		e.DigestType()
		e.Signature()
		e.Buffer()
		e.TemplateHash()
		count++
	}
	if count != l.Len() {
		t.Fatalf("%d of %d entries", count, l.Len())
	}
}

func FuzzParseASCII(f *testing.F) {
	for _, set := range captures {
		f.Add(readCapture(f, set, "ascii_runtime_measurements_sha1"))
	}
	f.Add(asciiOf(attest.SHA256, samples()...))
	f.Add(asciiOf(attest.SHA1, measurement{template: "ima-ng", prefix: "sha1:", digest: fill(20, 1), name: "/a\nb\n10 "}))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := ParseASCII(text)
		compareWithNext(t, text, list, err)
		if err != nil {
			return
		}
		touch(t, list)
		if got := list.ASCII(); !bytes.Equal(got, text) {
			t.Fatalf("%q is written as %q", text, got)
		}
		again, err := ParseBinary(list.Binary())
		if err != nil || again.ColumnHash() != list.ColumnHash() {
			return // the binary form does not tell the column's size, and bytes of choice mislead the search for it
		}
		if got := again.ASCII(); !bytes.Equal(got, text) {
			t.Fatalf("%q is written by way of binary as %q", text, got)
		}
		if list.falseHashes != again.falseHashes {
			t.Fatalf("%d false hashes in text, %d in binary", list.falseHashes, again.falseHashes)
		}
	})
}

func FuzzParseBinary(f *testing.F) {
	for _, set := range captures {
		f.Add(readCapture(f, set, "binary_runtime_measurements_sha256"))
	}
	for _, column := range attest.Hashes() {
		f.Add(append(binaryOf(column, samples()...), unknown("d-ng|n-ng", sized([]byte("x")))...))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		list, err := ParseBinary(raw)
		if err != nil {
			return
		}
		touch(t, list)
		if got := list.Binary(); !bytes.Equal(got, raw) {
			t.Fatalf("%x is written as %x", raw, got)
		}
		list.ASCII()
	})
}

// FuzzReplay replays a hostile list in two rounds, and holds the rules that need no knowledge of it: what is proven replays to the quoted
// value, and two rounds prove what one does.
func FuzzReplay(f *testing.F) {
	for _, set := range captures {
		f.Add(readCapture(f, set, "ascii_runtime_measurements_sha1"), uint8(7), uint8(12))
	}
	f.Add(asciiOf(attest.SHA1, samples()...), uint8(0), uint8(3))
	f.Fuzz(func(t *testing.T, text []byte, split, covered uint8) {
		list, err := ParseASCII(text)
		if err != nil {
			return
		}
		first := min(int(split), list.Len())
		end := min(first+int(covered), list.Len())
		quoted := func(end int) attest.Digest {
			value := pcr.Initial(attest.SHA256, 10)
			for _, e := range list.Entries()[:end] {
				if e.PCR == 10 {
					value = pcr.Extend(value, extension(e))
				}
			}
			return value
		}
		whole, failures := list.replay(quoted(end), Request{PCR: 10})
		if !whole.Valid() {
			t.Fatalf("the list does not replay to its own value: %v", failures)
		}
		head, failures := list.replay(quoted(first), Request{PCR: 10})
		if !head.Valid() {
			t.Fatalf("%v", failures)
		}
		state := head.State()
		state.Held = nil // covered need not reach it
		tail, failures := list.replay(quoted(end), Request{PCR: 10, From: state})
		if !tail.Valid() {
			t.Fatalf("second round: %v", failures)
		}
		if a, b := whole.State().Position, tail.State().Position; a != b || len(head.Entries())+len(tail.Entries()) != len(whole.Entries()) {
			t.Fatalf("position %d at once, %d in two rounds", a, b)
		}
	})
}

// extension is what a kernel extends into SHA-256 for a parsed entry.
func extension(e Entry) []byte {
	if e.Violation {
		return fill(32, 0xff)
	}
	if e.Template != "ima" {
		return attest.SHA256.Sum(e.Data()).Bytes()
	}
	_, digest := e.RawDigest()
	return attest.SHA256.Sum(measurement{template: "ima", digest: digest, name: e.Path}.hashed()).Bytes()
}

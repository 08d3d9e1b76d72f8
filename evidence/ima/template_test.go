package ima

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
)

// fill returns n bytes that differ from zeros.
func fill(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }

// samples has each template, and what is unusual in it.
func samples() []measurement {
	return []measurement{
		{template: "ima", digest: fill(20, 0xa1), name: "boot_aggregate"},
		{template: "ima", digest: fill(20, 0xa2), name: strings.Repeat("n", 255)},
		{template: "ima-ng", prefix: "sha256:", digest: fill(32, 0xa3), name: "/usr/bin/true"},
		{template: "ima-ng", prefix: "sha1:", digest: fill(20, 0xa4), name: "/usr/bin/with space"},
		{template: "ima-ng", prefix: "sha384:", digest: fill(48, 0xa5), name: ""},
		{template: "ima-ng", prefix: "sha512:", digest: fill(64, 0xa6), name: "/\x1b[31m\t\x01\xff", pcr: 9},
		{template: "ima-ng", prefix: "sm3-256:", digest: fill(32, 0xa7), name: "/sm3"},
		{template: "ima-ng", prefix: ":", digest: fill(20, 0xa8), name: "/unnamed"},
		{template: "ima-ng", prefix: "sha256:", digest: fill(20, 0xa9), name: "/short"},
		{template: "ima-sig", prefix: "sha256:", digest: fill(32, 0xaa), name: "/unsigned"},
		{template: "ima-sig", prefix: "sha256:", digest: fill(32, 0xab), name: "/signed", tail: []byte{3, 2, 4, 1, 2, 3, 4, 0, 1, 9}},
		{template: "ima-buf", prefix: "sha256:", digest: fill(32, 0xac), name: "kernel_version", tail: []byte("6.12"), pcr: 11},
		{template: "ima-ngv2", prefix: "ima:sha256:", digest: fill(32, 0xad), name: "/v2"},
		{template: "ima-sigv2", prefix: "verity:sha512:", digest: fill(64, 0xae), name: "/verity", tail: []byte{6}},
		{template: "ima-sigv2", prefix: "ima:sha1:", digest: fill(20, 0xaf), name: "/v2 unsigned"},
		{template: "ima-ng", prefix: "sha256:", digest: fill(32, 0), name: "/violated", violation: true},
		{template: "ima", digest: fill(20, 0), name: "/violated", violation: true, pcr: 23},
	}
}

func asciiOf(column attest.Hash, all ...measurement) []byte {
	var text []byte
	for _, m := range all {
		text = append(text, m.ascii(column)...)
	}
	return text
}

func binaryOf(column attest.Hash, all ...measurement) []byte {
	var raw []byte
	for _, m := range all {
		raw = append(raw, m.binary(column)...)
	}
	return raw
}

// checkEntry compares what was parsed with what was written.
func checkEntry(t *testing.T, e Entry, m measurement, column attest.Hash) {
	t.Helper()
	type view struct {
		PCR                               int
		Template, Path, Algorithm, Type   string
		Column, RawDigest, Signature, Buf string
		Violation, HasBuffer              bool
	}
	algorithm, raw := e.RawDigest()
	buffer, isBuffer := e.Buffer()
	got := view{e.PCR, e.Template, e.Path, algorithm, e.DigestType(), hexOf(e.TemplateHash()), hexOf(raw), hexOf(e.Signature()), hexOf(buffer), e.Violation, isBuffer}
	kind, name, found := strings.Cut(strings.TrimSuffix(m.prefix, ":"), ":")
	if !found {
		kind, name = "", kind
	}
	if m.template == "ima" {
		name = "sha1"
	}
	want := view{m.register(), m.template, m.name, name, kind, hexOf(m.column(column)), hexOf(m.digest), "", "", m.violation, m.template == "ima-buf"}
	if m.template == "ima-buf" {
		want.Buf = hexOf(m.tail)
	} else {
		want.Signature = hexOf(m.tail)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s %q (-want +got):\n%s", m.template, m.name, diff)
	}
	wantDigest := ""
	if h, err := attest.ParseHash(name); err == nil && h.Size() == len(m.digest) {
		wantDigest = name + ":" + hexOf(m.digest)
	}
	if got := e.Digest.String(); got != wantDigest {
		t.Errorf("%s %q: digest %q, want %q", m.template, m.name, got, wantDigest)
	}
	if !bytes.Equal(e.Data(), m.data()) {
		t.Errorf("%s %q: data %x, want %x", m.template, m.name, e.Data(), m.data())
	}
}

func hexOf(b []byte) string { return fmt.Sprintf("%x", b) }

func TestTemplates(t *testing.T) {
	for _, column := range attest.Hashes() {
		all := samples()
		text, raw := asciiOf(column, all...), binaryOf(column, all...)
		ascii, err := ParseASCII(text)
		if err != nil {
			t.Fatal(err)
		}
		binary, err := ParseBinary(raw)
		if err != nil {
			t.Fatal(err)
		}
		for _, list := range []List{ascii, binary} {
			if list.Len() != len(all) || list.ColumnHash() != column || list.falseHashes != 0 {
				t.Fatalf("%s: %d entries, %s column, %d false", column, list.Len(), list.ColumnHash(), list.falseHashes)
			}
			for i, e := range list.Entries() {
				checkEntry(t, e, all[i], column)
			}
			if got := list.ASCII(); !bytes.Equal(got, text) {
				t.Errorf("%s: written as text:\n%s", column, got)
			}
			if got := list.Binary(); !bytes.Equal(got, raw) {
				t.Errorf("%s: written as binary: %x", column, got)
			}
		}
	}
}

// What an entry of the kernel hashes to, from the protocol's vectors: independent of our own writer.
func TestTemplateHashVector(t *testing.T) {
	const line = "10 6444a311ade0f1901a30bd1ed7a1f076755e416c ima-ng " +
		"sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb /usr/bin/a\n"
	list, err := ParseASCII([]byte(line))
	if err != nil || list.falseHashes != 0 {
		t.Fatalf("%v, %d false", err, list.falseHashes)
	}
}

func TestFields(t *testing.T) {
	list, err := ParseBinary(binaryOf(attest.SHA1, samples()...))
	if err != nil {
		t.Fatal(err)
	}
	entries := list.Entries()
	for i, want := range map[int][][]byte{
		0:  {fill(20, 0xa1), []byte("boot_aggregate")},
		2:  {append([]byte("sha256:\x00"), fill(32, 0xa3)...), []byte("/usr/bin/true\x00")},
		13: {append([]byte("verity:sha512:\x00"), fill(64, 0xae)...), []byte("/verity\x00"), {6}},
	} {
		if diff := cmp.Diff(want, entries[i].Fields()); diff != "" {
			t.Errorf("entry %d (-want +got):\n%s", i, diff)
		}
	}
}

// The zero Entry answers everything with nothing.
func TestZeroEntry(t *testing.T) {
	var e Entry
	algorithm, raw := e.RawDigest()
	_, isBuffer := e.Buffer()
	if e.TemplateHash() != nil || e.Data() != nil || e.Fields() != nil || e.Signature() != nil || isBuffer || algorithm != "" || raw != nil || e.DigestType() != "" {
		t.Error("the zero Entry holds something")
	}
}

func TestDecodeHex(t *testing.T) {
	const digits = "0123456789abcdef00ff9aaf5c0d"
	for n := 0; n <= len(digits); n += 2 {
		got := make([]byte, n/2)
		if !decodeHex(got, []byte(digits[:n])) || hexOf(got) != digits[:n] {
			t.Errorf("%q decodes to %x", digits[:n], got)
		}
	}
	// every byte in every place of both paths
	for place := range digits {
		for c := range 256 {
			text := []byte(digits)
			text[place] = byte(c)
			got := make([]byte, len(text)/2)
			want := strings.IndexByte("0123456789abcdef", byte(c)) >= 0
			if ok := decodeHex(got, text); ok != want || ok && hexOf(got) != string(text) {
				t.Errorf("%q: %v, %x", text, ok, got)
			}
		}
	}
	if decodeHex(make([]byte, 2), []byte("00")) {
		t.Error("too few digits are taken")
	}
}

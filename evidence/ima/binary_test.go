package ima

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
)

// unknown is an entry of a template that the package does not read.
func unknown(template string, data []byte) []byte {
	raw := binary.LittleEndian.AppendUint32(nil, 10)
	raw = append(raw, attest.SHA1.Sum(data).Bytes()...)
	raw = append(raw, sized([]byte(template))...)
	return append(raw, sized(data)...)
}

func TestParseBinaryKeepsUnknownTemplates(t *testing.T) {
	data := append(sized([]byte("sha256:\x00digest")), sized([]byte("/a\x00"))...)
	raw := append(unknown("d-ng|n-ng|iuid", data), samples()[2].binary(attest.SHA1)...)
	raw = append(raw, unknown("evm-sig", nil)...)
	raw = append(raw, unknown("d-ng|n-ng|iuid", data)...)
	list, err := ParseBinary(raw)
	if err != nil {
		t.Fatal(err)
	}
	if list.falseHashes != 0 {
		t.Errorf("%d false hashes", list.falseHashes)
	}
	entries := list.Entries()
	var templates []string
	for _, e := range entries {
		templates = append(templates, e.Template)
	}
	if diff := cmp.Diff([]string{"d-ng|n-ng|iuid", "ima-ng", "evm-sig", "d-ng|n-ng|iuid"}, templates); diff != "" {
		t.Errorf("templates (-want +got):\n%s", diff)
	}
	e := entries[0]
	if e.Path != "" || !e.Digest.IsZero() || e.Signature() != nil || e.DigestType() != "" {
		t.Errorf("an entry that was not read tells something: %+v", e)
	}
	if diff := cmp.Diff([][]byte{[]byte("sha256:\x00digest"), []byte("/a\x00")}, e.Fields()); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	if !bytes.Equal(list.Binary(), raw) {
		t.Error("the list is not written as it was read")
	}
	if _, err := ParseASCII(list.ASCII()); err == nil {
		t.Error("the text of an unknown template is read")
	}
}

func TestParseBinaryRefuses(t *testing.T) {
	whole := samples()[2].binary(attest.SHA1) // ima-ng
	legacy := samples()[0].binary(attest.SHA1)
	edit := func(raw []byte, at int, with ...byte) []byte {
		raw = bytes.Clone(raw)
		copy(raw[at:], with)
		return raw
	}
	const (
		column   = 4
		name     = column + 20 + 4
		size     = name + 6
		digest   = size + 4
		pathSize = digest + 4 + 8 + 32
	)
	many := bytes.Clone(whole)
	for i := range MaxTemplates + 1 {
		many = append(many, unknown(fmt.Sprintf("template-%d", i), nil)...)
	}
	for row, c := range map[string]struct {
		raw  []byte
		want string
	}{
		"no template name":   {edit(whole, 24, 0), "offset 0: no template name follows"},
		"big-endian":         {edit(whole, 24, 0, 0, 0, 6), "ima_canonical_fmt"},
		"PCR 24":             {edit(whole, 0, 24), "entry 0 at offset 0: PCR 24, not 0 to 23"},
		"PCR 1<<24":          {edit(whole, 0, 0, 0, 0, 1), "PCR 16777216"},
		"name not printable": {append(bytes.Clone(whole), edit(whole, name, 0x1b)...), "entry 1 at offset 100: template name"},
		"name of no bytes":   {append(bytes.Clone(whole), edit(whole, name-4, 0)...), "template name of 0 bytes, not 1 to 255"},
		"name of 256 bytes":  {append(bytes.Clone(whole), edit(whole, name-4, 0, 1)...), "template name of 256 bytes, not 1 to 255"},
		"name cut off":       {append(bytes.Clone(whole), whole[:name+3]...), "template name of 6 bytes, but 3 are left"},
		"data of 4 GiB":      {edit(whole, size, 0xff, 0xff, 0xff, 0xff), "length 4294967295, more than 1048576"},
		"data cut off":       {whole[:len(whole)-1], "entry 0 at offset 0: template ima-ng: length 62"},
		"digest of 4 GiB":    {edit(whole, digest, 0xff, 0xff, 0xff, 0x7f), "digest field: length 2147483647, more than"},
		"digest cut off":     {edit(whole, digest, 100), "digest field: length 100, but 58 bytes are left"},
		"no NUL":             {edit(whole, digest+4+7, 'x'), "digest field: no NUL after the algorithm"},
		"algorithm":          {edit(whole, digest+4, 'S'), `algorithm "Sha256:"`},
		"long algorithm":     {measurement{template: "ima-ng", prefix: strings.Repeat("a", 70_000) + ":", name: "/a"}.binary(attest.SHA1), "of 70001 bytes, more than 64"},
		"path cut off":       {edit(whole, pathSize, 15), "name field: length 15, but 14 bytes are left"},
		"left over":          {edit(whole, pathSize, 13), "name field"},
		"NUL in the path":    {edit(whole, pathSize+4+3, 0), "not one string that ends in NUL"},
		"path without NUL":   {edit(whole, len(whole)-1, 'x'), "not one string that ends in NUL"},
		"cut off":            {append(bytes.Clone(whole), 10, 0, 0), "entry 1 at offset 100: cut off before the template's name"},
		"ima: digest":        {legacy[:24+4+3+10], "template ima: digest cut off after 10 bytes"},
		"ima: name":          {legacy[:24+4+3+20+2], "template ima: name field: length cut off after 2 bytes"},
		"ima: NUL":           {edit(legacy, len(legacy)-1, 0), "name field"},
		"many templates":     {many, "limit exceeded: template \"template-64\""},
	} {
		list, err := ParseBinary(c.raw)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", row, err, c.want)
		}
		if list.Len() != 0 {
			t.Errorf("%s: %d entries beside an error", row, list.Len())
		}
	}
	for _, raw := range [][]byte{whole, legacy, append(bytes.Clone(whole), whole...), nil} {
		if list, err := ParseBinary(raw); err != nil || list.falseHashes != 0 {
			t.Errorf("what the rows change: %v, %d false hashes", err, list.falseHashes)
		}
	}
}

// A length that is not there costs nothing.
func TestParseBinaryMemory(t *testing.T) {
	raw := samples()[2].binary(attest.SHA1)
	binary.LittleEndian.PutUint32(raw[4+20+4+6:], MaxField)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		if _, err := ParseBinary(raw); err == nil {
			t.Fatal("a cut off entry is read")
		}
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
		t.Errorf("%d bytes for 100 refusals of %d bytes", used, len(raw))
	}
}

// In the SHA-384 and SHA-512 files of a kernel without these hashes, the column is SHA-1 padded with zeros.
func TestPaddedColumn(t *testing.T) {
	m := samples()[2]
	raw := m.binary(attest.SHA384)
	copy(raw[4:], append(m.column(attest.SHA1), make([]byte, 28)...))
	list, err := ParseBinary(raw)
	if err != nil || list.falseHashes != 0 || list.records[0].flags != flagPaddedColumn {
		t.Fatalf("%v, %d false hashes", err, list.falseHashes)
	}
	text, err := ParseASCII(list.ASCII())
	if err != nil || text.falseHashes != 0 {
		t.Fatalf("as text: %v, %d false hashes", err, text.falseHashes)
	}
	raw[51] = 1
	if list, err = ParseBinary(raw); err != nil || list.falseHashes != 1 {
		t.Errorf("padded with something else: %v, %d false hashes", err, list.falseHashes)
	}
}

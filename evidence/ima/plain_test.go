package ima

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
)

// compareWithNext demands that a list is what next makes of its text, without the short way for plain lines.
func compareWithNext(t *testing.T, text []byte, list List, err error) {
	t.Helper()
	p := asciiParser{text: text, line: 1}
	for p.pos < len(text) {
		if e := p.next(); e != nil {
			if want := fmt.Sprintf("line %d: %v", p.line, e); err == nil || err.Error() != want {
				t.Fatalf("%v, not %s", err, want)
			}
			return
		}
	}
	if err != nil || !slices.Equal(list.records, p.list.records) || !bytes.Equal(list.raw, p.list.raw) || list.falseHashes != p.list.falseHashes {
		t.Fatalf("%q: %v, %+v, not %+v", text, err, list, p.list)
	}
}

func TestPlainLinesAreReadAlike(t *testing.T) {
	plain := measurement{template: "ima-ng", prefix: "sha256:", digest: fill(32, 1), name: "/usr/bin/a"}
	signed := plain
	signed.template, signed.tail = "ima-sig", []byte{}
	named := func(m measurement, name string) string {
		m.name = name
		return string(m.ascii(attest.SHA1))
	}
	first := string(measurement{template: "ima-ng", prefix: "sha1:", digest: fill(20, 1), name: "boot_aggregate"}.ascii(attest.SHA1))
	good := named(plain, "/usr/bin/a")
	for name, row := range map[string]struct {
		line  string
		plain bool
	}{
		"ima-ng":                {good, true},
		"ima-sig":               {named(signed, "/usr/bin/a"), true},
		"PCR 0":                 {" 0" + good[2:], true},
		"space in the name":     {named(plain, "/a b "), true},
		"space, ima-sig":        {named(signed, "/a b "), true},
		"no name":               {named(plain, ""), true},
		"longest name":          {named(plain, strings.Repeat("/", MaxName)), true},
		"name too long":         {named(plain, strings.Repeat("/", MaxName+1)), false},
		"NUL":                   {named(plain, "/a\x00"), false},
		"newline":               {named(plain, "/a\nb"), false},
		"PCR 24":                {"24" + good[2:], false},
		"upper case":            {strings.ToUpper(good[:43]) + good[43:], false},
		"upper case, digest":    {strings.Replace(good, "sha256:01", "sha256:0A", 1), false},
		"no digit":              {strings.Replace(good, "sha256:01", "sha256:0/", 1), false},
		"no newline":            {good[:len(good)-1], false},
		"cut off":               {good[:60], false},
		"no space before name":  {strings.Replace(good, " /usr", "//usr", 1), false},
		"ima-sig, no third":     {strings.Replace(good, "ima-ng", "ima-sig", 1), false},
		"ima-sig, signed":       {strings.Replace(named(signed, "/usr/bin/a"), "/a ", "/a 03", 1), false},
		"false hash":            {strings.Replace(good, "/usr", "/usb", 1), false},
		"false hash, ima-sig":   {strings.Replace(named(signed, "/a"), "/a", "/b", 1), false},
		"violation":             {good[:3] + strings.Repeat("0", 40) + good[43:], false},
		"another algorithm":     {first, false},
		"another column":        {string(plain.ascii(attest.SHA256)), false},
		"template that is none": {strings.Replace(good, "ima-ng ", "ima-nx ", 1), false},
	} {
		for _, text := range []string{first + row.line, first + row.line + good} {
			list, err := ParseASCII([]byte(text))
			compareWithNext(t, []byte(text), list, err)
		}
		p := asciiParser{text: []byte(first + row.line), line: 1}
		if err := p.next(); err != nil {
			t.Fatal(err)
		}
		if got := p.plain(); got != row.plain {
			t.Errorf("%s: plain is %v", name, got)
		}
	}
	for _, set := range captures {
		text := readCapture(t, set, "ascii_runtime_measurements_sha1")
		list, err := ParseASCII(text)
		compareWithNext(t, text, list, err)
	}
}

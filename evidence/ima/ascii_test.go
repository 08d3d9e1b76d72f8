package ima

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
)

const (
	zeros20 = "0000000000000000000000000000000000000000"
	sha256a = "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
	good    = "10 6444a311ade0f1901a30bd1ed7a1f076755e416c ima-ng " + sha256a + " /usr/bin/a\n"
)

func TestParseASCIIRefuses(t *testing.T) {
	head := "10 " + zeros20 + " "
	for name, row := range map[string]struct{ text, want string }{
		"no newline":            {good + strings.TrimSuffix(good, "\n"), "line 2: no newline at the end"},
		"empty line":            {good + "\n" + good, "line 2: PCR"},
		"PCR 24":                {good + "24" + good[2:], "line 2: PCR"},
		"PCR in one digit":      {good + good[1:], "line 2: PCR"},
		"PCR 05":                {"05" + good[2:], "line 1: PCR"},
		"PCR of letters":        {"x0" + good[2:], "line 1: PCR"},
		"only a PCR":            {"10 \n", "line 1: nothing after the template hash"},
		"no template":           {"10 " + zeros20 + " \n", "line 1: nothing after the template"},
		"column of 38 digits":   {"10 " + zeros20[2:] + " ima-ng " + sha256a + " /a\n", "line 1: template hash \"00000000000000000000000000000000000000\" has 38 digits"},
		"column of 41 digits":   {"10 " + zeros20 + "0 ima-ng " + sha256a + " /a\n", "has 41 digits"},
		"two column sizes":      {good + "10 " + zeros20 + zeros20[:24] + " ima-ng " + sha256a + " /a\n", "line 2: template hash of 64 digits in a list of 40"},
		"upper case column":     {strings.Replace(good, "6444a", "6444A", 1), "line 1: template hash"},
		"unknown template":      {good + good + head + "evm-sig x y z\n" + good, `line 3: template "evm-sig" cannot be read from text`},
		"no name":               {head + "ima-ng " + sha256a + "\n", "line 1: no name after the digest"},
		"no algorithm":          {head + "ima-ng :ca97 /a\n", "no algorithm before its colon"},
		"two algorithms":        {head + "ima-ng a:b:ca97 /a\n", `digest field: algorithm "a:b:"`},
		"one in version 2":      {head + "ima-ngv2 sha256:ca97 /a\n", `digest field: algorithm "sha256:"`},
		"none in version 2":     {head + "ima-ngv2 ca97 /a\n", `digest field: algorithm ":"`},
		"algorithm in capitals": {head + "ima-ng SHA256:ca97 /a\n", `digest field: algorithm "SHA256:"`},
		"long algorithm":        {head + "ima-ng " + strings.Repeat("a", 64) + ":ca97 /a\n", "of 65 bytes, more than 64"},
		"digest in capitals":    {head + "ima-ng sha256:CA97 /a\n", "line 1: digest \"CA97\" is not in lower case hexadecimal digits"},
		"odd digest":            {head + "ima-ng sha256:ca9 /a\n", "is not in lower case hexadecimal digits"},
		"long digest":           {head + "ima-ng sha256:" + strings.Repeat("00", 65) + " /a\n", "digest of 130 digits, more than 128"},
		"digest of ima":         {head + "ima ca97 /a\n", `digest "ca97" has not 40 digits`},
		"name of ima":           {head + "ima " + zeros20 + " " + strings.Repeat("n", 256) + "\n", "name of 256 bytes, more than 255"},
		"long name":             {head + "ima-ng " + sha256a + " " + strings.Repeat("n", MaxName+1) + "\n", "name of 4097 bytes, more than 4096"},
		"NUL":                   {head + "ima-ng " + sha256a + " /a\x00b\n", "holds a NUL"},
		"no third field":        {head + "ima-sig " + sha256a + " /a\n", "template ima-sig without its third field"},
		"signature":             {head + "ima-sig " + sha256a + " /a 0x\n", `third field "0x" is not in lower case hexadecimal digits`},
		"odd signature":         {head + "ima-sig " + sha256a + " /a 030\n", `third field "030" is not`},
		"huge buffer":           {head + "ima-buf " + sha256a + " a " + strings.Repeat("00", MaxField+1) + "\n", "third field of 1048577 bytes, more than 1048576"},
	} {
		list, err := ParseASCII([]byte(row.text))
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: error %v, want %q", name, err, row.want)
		}
		if list.Len() != 0 {
			t.Errorf("%s: %d entries beside an error", name, list.Len())
		}
	}
	if list, err := ParseASCII([]byte(good + good)); err != nil || list.Len() != 2 {
		t.Errorf("the line that the rows change: %d entries, %v", list.Len(), err)
	}
}

func TestParseASCIIEmpty(t *testing.T) {
	list, err := ParseASCII(nil)
	if err != nil || list.Len() != 0 || list.ColumnHash() != 0 || len(list.ASCII()) != 0 || list.Entries() != nil {
		t.Errorf("%v, %v", list, err)
	}
}

func TestParseASCIILimit(t *testing.T) {
	full := List{records: make([]record, MaxEntries)}
	if err := full.add(record{}); !errors.Is(err, ErrLimit) {
		t.Errorf("entry %d: %v", MaxEntries+1, err)
	}
}

func paths(list List) []string {
	var all []string
	for _, e := range list.All() {
		all = append(all, e.Path)
	}
	return all
}

// A file's name may hold newlines, and what follows one may look like an entry, with a right template hash.
func TestNewlineInName(t *testing.T) {
	ng := func(name string) measurement {
		return measurement{template: "ima-ng", prefix: "sha256:", digest: fill(32, 7), name: name}
	}
	sig := func(name string) measurement {
		return measurement{template: "ima-sig", prefix: "sha256:", digest: fill(32, 8), name: name, tail: []byte{3, 2}}
	}
	violation := func(name string) measurement {
		return measurement{template: "ima-sig", prefix: "sha256:", digest: fill(32, 0), name: name, violation: true}
	}
	bait := "/tmp/x\n" + strings.TrimSuffix(ng("/bin/sh").ascii(attest.SHA1), "\n")
	for name, all := range map[string][]measurement{
		"one":                    {ng("/a"), ng("/b\nc"), ng("/d")},
		"at the end":             {ng("/a"), ng("/b\n")},
		"at the start":           {ng("\n/a"), ng("/b")},
		"many":                   {ng("/" + strings.Repeat("\n", 4000)), ng("/b")},
		"before a third field":   {sig("/b\nc"), sig("/d\n\n"), sig("/e")},
		"looks like an entry":    {ng("/a"), ng(bait), ng("/c")},
		"twice like an entry":    {ng(bait + bait), sig(bait)},
		"in the first signed":    {sig("/a\nb"), sig("/c")},
		"in a violation":         {violation("/a\nb\n"), violation("/c\n"), ng("/d")},
		"in the last violation":  {ng("/a"), violation("/b\nc")},
		"of ima":                 {{template: "ima", digest: fill(20, 9), name: "/a\nb"}},
		"of another column size": {ng("/a\n10 0000 ima-ng sha256:00 /b"), ng("/c")},
	} {
		text := asciiOf(attest.SHA1, all...)
		list, err := ParseASCII(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var want []string
		for _, m := range all {
			want = append(want, m.name)
		}
		if diff := cmp.Diff(want, paths(list)); diff != "" || list.falseHashes != 0 {
			t.Errorf("%s: %d false hashes, names (-want +got):\n%s", name, list.falseHashes, diff)
		}
		if diff := cmp.Diff(string(text), string(list.ASCII())); diff != "" {
			t.Errorf("%s: text (-want +got):\n%s", name, diff)
		}
		// the binary form has no such riddle, and counts the same
		binary, err := ParseBinary(binaryOf(attest.SHA1, all...))
		if err != nil {
			t.Fatal(err)
		}
		if a, b := list.newlines(0, list.Len()), binary.newlines(0, binary.Len()); a != b || a == 0 {
			t.Errorf("%s: %d newlines in text, %d in binary", name, a, b)
		}
	}
}

// The limit of the ASCII form: a violation has no hash that tells where its name ends, and so a line in it that looks like an entry is taken
// for one. The replay then fails, which is the safe side; the binary list is exact.
func TestNewlineBaitInViolation(t *testing.T) {
	bait := strings.TrimSuffix(measurement{template: "ima-ng", prefix: "sha256:", digest: fill(32, 1), name: "/bin/sh"}.ascii(attest.SHA1), "\n")
	m := measurement{template: "ima-ng", prefix: "sha256:", digest: fill(32, 0), name: "/tmp/x\n" + bait, violation: true}
	list, err := ParseASCII(asciiOf(attest.SHA1, m))
	if err != nil || list.Len() != 2 {
		t.Errorf("text: %d entries, %v", list.Len(), err)
	}
	list, err = ParseBinary(binaryOf(attest.SHA1, m))
	if err != nil || list.Len() != 1 {
		t.Errorf("binary: %d entries, %v", list.Len(), err)
	}
}

// A line that does not hash to its column stands alone: it is reported by Replay, and the lines after it are read as they are.
func TestFalseColumnStandsAlone(t *testing.T) {
	changed := strings.Replace(good, "/usr/bin/a", "/usr/bin/b", 1)
	list, err := ParseASCII([]byte(good + changed + good + changed))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/usr/bin/a", "/usr/bin/b", "/usr/bin/a", "/usr/bin/b"}, paths(list)); diff != "" || list.falseHashes != 2 {
		t.Errorf("%d false hashes, names (-want +got):\n%s", list.falseHashes, diff)
	}
}

// Joining lines is bounded: a hostile list costs a bounded number of hashes per byte, and no errors are made for
// what is tried.
func TestJoiningIsBounded(t *testing.T) {
	var lines strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&lines, "10 %040x ima-ng %s /%d\n", i+1, sha256a, i)
	}
	bait := "\n10 " + strings.Repeat("1", 40) + " ima " + zeros20 + " "
	baited := measurement{template: "ima-ng", prefix: "sha256:", digest: fill(32, 1), name: "/" + strings.Repeat(bait, 4000/len(bait))}
	empty := measurement{template: "ima-ng", prefix: "sha256:", digest: fill(32, 0), violation: true, name: "/" + strings.Repeat("\n", 4000)}
	for name, row := range map[string]struct {
		text           string
		entries, wrong int
	}{
		"false lines":        {lines.String(), 40_000, 40_000},
		"names full of bait": {strings.Repeat(baited.ascii(attest.SHA1), 500), 500, 0},
		"names of newlines":  {strings.Repeat(empty.ascii(attest.SHA1), 500), 500, 0},
	} {
		list, err := ParseASCII([]byte(row.text))
		if err != nil || list.Len() != row.entries || list.falseHashes != row.wrong {
			t.Errorf("%s: %d entries, %d false hashes, %v", name, list.Len(), list.falseHashes, err)
		}
	}
}

// Names are made in blocks; whatever is skipped between them, each entry has its own.
func TestNamesOfSkippedEntries(t *testing.T) {
	var all []measurement
	var want []string
	for i := range 300 {
		m := measurement{template: "ima-ng", prefix: "sha1:", digest: fill(20, byte(i)), name: fmt.Sprintf("/%d/%s", i, strings.Repeat("n", i*13%4000))}
		if i%3 == 0 {
			m.pcr = 11
		} else {
			want = append(want, m.name)
		}
		all = append(all, m)
	}
	list, err := ParseBinary(binaryOf(attest.SHA1, all...))
	if err != nil {
		t.Fatal(err)
	}
	replayed, failures := list.replay(extended(attest.SHA1, native, 10, all...), Request{PCR: 10})
	if failures != nil {
		t.Fatal(failures)
	}
	var got []string
	for _, e := range replayed.Entries() {
		got = append(got, e.Path)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

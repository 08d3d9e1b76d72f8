package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
)

const manyFiles = 100_000

func fileName(i int) string {
	return fmt.Sprintf("/usr/lib/python3/dist-packages/module%06d.so", i)
}

func manyListings() []listing {
	listings := make([]listing, manyFiles)
	for i := range listings {
		listings[i] = listing{fileName(i), []attest.Digest{attest.SHA256.Sum(fmt.Append(nil, i))}}
	}
	return listings
}

func TestTable(t *testing.T) {
	listings := manyListings()[:5000]
	listings[7].digests = append(listings[7].digests, digestC, attest.SHA512.Sum(nil), attest.SHA384.Sum(nil))
	listings = append(listings, listing{"", []attest.Digest{digestA}}, listing{strings.Repeat("/long", 1000), []attest.Digest{digestB}}, listing{"/none", nil})
	table := newTable(listings)
	for _, l := range listings {
		packed, ok := table.find(l.path)
		if !ok || !slices.Equal(unpackDigests(packed), l.digests) {
			t.Fatalf("%q: %v %v", l.path, ok, unpackDigests(packed))
		}
		for _, d := range l.digests {
			if !holds(packed, &d) {
				t.Errorf("%q does not hold %s", l.path, d)
			}
		}
		another := attest.SHA256.Sum([]byte("another"))
		if holds(packed, &another) || holds(packed, &attest.Digest{}) {
			t.Errorf("%q holds what was not listed", l.path)
		}
	}
	for i := range 5000 {
		if _, ok := table.find(fileName(5000 + i)); ok {
			t.Fatalf("%s is found", fileName(5000+i))
		}
	}
	if table.paths != len(listings) || table.digests != len(listings)+2 {
		t.Errorf("%d paths, %d digests", table.paths, table.digests)
	}
}

// TestTableIsBounded: what YAML's anchors blow up beyond the numbers of records is refused, and what is just below is not.
func TestTableIsBounded(t *testing.T) {
	digests := slices.Repeat([]attest.Digest{digestA}, 1000)
	size := maxSize([]listing{{fileName(0), digests}})
	var listings []listing
	for i := range maxRecords / size {
		listings = append(listings, listing{fileName(i), digests})
	}
	if got := maxSize(listings); got > maxRecords || got <= maxRecords-size {
		t.Fatalf("%d bytes are not just below %d", got, maxRecords)
	}
	listings = append(listings, listing{"/one/more", digests})
	var r reader
	if made := r.compile(listings, nil); made.paths != 0 || len(r.problems) != 1 || !strings.Contains(r.problems[0].Error(), "once compiled") {
		t.Errorf("%d paths, %v", made.paths, r.problems)
	}
	r = reader{}
	if made := r.compile(listings[:10], nil); made.paths != 10 || len(r.problems) != 0 || len(made.records) > maxSize(listings[:10]) {
		t.Errorf("%d paths, %v", made.paths, r.problems)
	}
}

// TestLookupDoesNotAllocate and stays small: what every entry of every agent costs.
func TestLookupDoesNotAllocate(t *testing.T) {
	p := &Runtime{files: newTable(manyListings())}
	if bytes := len(p.files.records) + 4*len(p.files.slots); bytes > 120*manyFiles {
		t.Errorf("%d bytes for %d files", bytes, manyFiles)
	}
	name, digest := fileName(77), attest.SHA256.Sum(fmt.Append(nil, 77))
	allocations := testing.AllocsPerRun(100, func() {
		if p.File(name, digest) != Approved || p.File(name, digestA) != Differs || p.File("/x", digest) != Unlisted {
			t.Fatal("wrong answer")
		}
	})
	if allocations != 0 {
		t.Errorf("%v allocations", allocations)
	}
}

func TestPatterns(t *testing.T) {
	for _, test := range []struct {
		source, path string
		match        bool
	}{
		{`/tmp`, "/tmp", true},
		{`/tmp`, "/tmpfoo", false},
		{`/tmp`, "/x/tmp", false},
		{`/a|/b`, "/a", true},
		{`/a|/b`, "/bc", false},
		{`/a|/b`, "/c/b", false},
		{`^/tmp$`, "/tmp", true},
		{`/tmp/.*`, "/tmp/a\nb", false}, // a newline in a name hides nothing
		{`(?s)/tmp/.*`, "/tmp/a\nb", true},
		{`(?m)^/tmp$`, "/tmp\n/x", false},
		{`/my dir/[a c]+`, "/my_dir/a_c", true},
		{`/my dir/[a c]+`, "/my_dir/ac d", false},
		{`/[!-z ]`, "/_", true},
		{`/[ -~]`, "/b", true}, // a range from the space on
		{`/[^a]`, "/_", true},
		{`/\Qa b\E`, "/a_b", true},
		{`/a_b`, "/a_b", true},
		{`(?i)/Tmp x`, "/tMP_X", true},
	} {
		p, err := compilePattern(test.source)
		if err != nil || p.match(test.path) != test.match {
			t.Errorf("%s: %q: %v, error %v", test.source, test.path, !test.match, err)
		}
	}
}

func BenchmarkFile(b *testing.B) {
	listings := manyListings()
	p := &Runtime{files: newTable(listings)}
	i := 0
	for b.Loop() {
		l := &listings[i]
		if p.File(l.path, l.digests[0]) != Approved {
			b.Fatal(l.path)
		}
		if i++; i == len(listings) {
			i = 0
		}
	}
}

func BenchmarkParse100k(b *testing.B) {
	d := newDraft("bench")
	for _, l := range manyListings() {
		d.add(d.files, l.path, l.digests[0])
	}
	doc := d.yaml()
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(doc); err != nil {
			b.Fatal(err)
		}
	}
}

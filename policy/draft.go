package policy

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/ima"
)

// draft is a Runtime document in the making.
type draft struct {
	name                     string
	files, keyrings, buffers digestSets
	// imaPolicies has one set, under the empty name.
	imaPolicies         digestSets
	excludes, earlyBoot []string
	comments            []string
	omitted             int
}

type digestSets map[string][]attest.Digest

func newDraft(name string) *draft {
	return &draft{name: name, files: digestSets{}, keyrings: digestSets{}, buffers: digestSets{}, imaPolicies: digestSets{}}
}

func (d *draft) add(to digestSets, name string, digest attest.Digest) {
	if !slices.Contains(to[name], digest) {
		to[name] = append(to[name], digest)
	}
}

func (d *draft) addBuffer(e ima.Entry, buffer []byte) {
	if _, err := ParseKey(buffer); err == nil {
		d.add(d.keyrings, e.Path, e.Digest)
		return
	}
	d.add(d.buffers, e.Path, e.Digest)
}

// leaveOut names what the document does not list, in a comment.
func (d *draft) leaveOut(name, why string) {
	if d.omitted++; d.omitted <= maxProblems {
		d.comments = append(d.comments, fmt.Sprintf("left out: %s: %s", strconv.QuoteToASCII(name), why))
	}
}

// yaml writes the document, sorted.
func (d *draft) yaml() []byte {
	var out bytes.Buffer
	slices.Sort(d.comments)
	for _, comment := range d.comments {
		fmt.Fprintf(&out, "# %s\n", comment)
	}
	if more := d.omitted - len(d.comments); more > 0 {
		fmt.Fprintf(&out, "# left out: %d more\n", more)
	}
	fmt.Fprintf(&out, "apiVersion: %s\nkind: %s\nmetadata:\n  name: %s\nspec:\n", APIVersion, KindRuntime, strconv.Quote(d.name))
	writeList(&out, "  ", "imaPolicies", sortedDigests(d.imaPolicies[""]))
	writeList(&out, "  ", "earlyBoot", quoted(d.earlyBoot))
	writeList(&out, "  ", "excludes", quoted(d.excludes))
	writeSets(&out, "keyrings", d.keyrings)
	writeSets(&out, "imaBuffers", d.buffers)
	writeSets(&out, "digests", d.files)
	if bytes.HasSuffix(out.Bytes(), []byte("spec:\n")) {
		out.Truncate(out.Len() - 1)
		out.WriteString(" {}\n")
	}
	return out.Bytes()
}

func sortedDigests(digests []attest.Digest) []string {
	var all []string
	for _, d := range digests {
		all = append(all, d.String())
	}
	slices.Sort(all)
	return all
}

// quoted returns the strings sorted, each once, in quotes.
func quoted(texts []string) []string {
	var all []string
	for _, s := range texts {
		all = append(all, strconv.Quote(s))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func writeList(out *bytes.Buffer, indent, key string, items []string) {
	if len(items) == 0 {
		return
	}
	fmt.Fprintf(out, "%s%s:\n", indent, key)
	for _, item := range items {
		fmt.Fprintf(out, "%s- %s\n", indent, item)
	}
}

func writeSets(out *bytes.Buffer, key string, sets digestSets) {
	if len(sets) == 0 {
		return
	}
	fmt.Fprintf(out, "  %s:\n", key)
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		items := sortedDigests(sets[name])
		written := yamlKey(name)
		if len(written) <= maxImplicitKey {
			writeList(out, "    ", written, items)
			continue
		}
		fmt.Fprintf(out, "    ? %s\n    : - %s\n", written, strings.Join(items, "\n      - "))
	}
}

// maxImplicitKey is how long a key may be that is not marked by "?" (YAML 1.2, 8.2.2).
const maxImplicitKey = 1000

// yamlKey writes a path plainly where nobody can read it otherwise, and in quotes elsewhere: Go's escapes are YAML's too.
func yamlKey(name string) string {
	plain := strings.HasPrefix(name, "/")
	for _, c := range []byte(name) {
		alphanumeric := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		plain = plain && (alphanumeric || strings.IndexByte("/._+-", c) >= 0)
	}
	if plain {
		return name
	}
	return strconv.Quote(name)
}

package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/assay-project/assay/attest"
)

// place is where something stands in a document, for messages only. Nil is the document itself.
type place struct {
	up    *place
	key   string
	index int // in a list, when key is empty
	keyed bool
}

func (p *place) member(key string) *place { return &place{up: p, key: key, keyed: true} }
func (p *place) item(i int) *place        { return &place{up: p, index: i} }

// String returns the form spec.digests["/usr/bin/a"][0].
func (p *place) String() string {
	if p == nil {
		return "document"
	}
	up := ""
	if p.up != nil {
		up = p.up.String()
	}
	if !p.keyed {
		return fmt.Sprintf("%s[%d]", up, p.index)
	}
	letter := func(c rune) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
	switch {
	case p.key == "" || strings.TrimFunc(p.key, letter) != "":
		return fmt.Sprintf("%s[%.200q]", up, p.key)
	case up == "":
		return p.key
	}
	return up + "." + p.key
}

// reader walks a tree and collects every mistake and every warning.
type reader struct {
	problems []error
	more     int
	warnings []string
}

func (r *reader) problem(format string, args ...any) {
	if len(r.problems) >= maxProblems {
		r.more++
		return
	}
	r.problems = append(r.problems, fmt.Errorf(format, args...))
}

func (r *reader) warn(format string, args ...any) {
	switch {
	case len(r.warnings) < maxProblems:
		r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
	case len(r.warnings) == maxProblems:
		r.warnings = append(r.warnings, "There are more warnings.")
	}
}

// err joins the mistakes into one error, or returns nil.
func (r *reader) err() error {
	if r.more > 0 {
		return errors.Join(append(slices.Clone(r.problems), fmt.Errorf("and %d more mistakes", r.more))...)
	}
	return errors.Join(r.problems...)
}

// want reports whether n is of the kind k, and a mistake if not.
func (r *reader) want(n *node, at *place, k kind) bool {
	if n.kind == k {
		return true
	}
	hint := ""
	if k == text && (n.kind == number || n.kind == boolean || n.kind == null) {
		hint = "; put it in quotes"
	}
	r.problem("%s: is %s and not %s%s", at, n.kind, k, hint)
	return false
}

// closed checks that n is an object without keys other than known.
func (r *reader) closed(n *node, at *place, known ...string) bool {
	if !r.want(n, at, object) {
		return false
	}
	for _, key := range n.keys {
		if !slices.Contains(known, key) {
			r.problem("%s: unknown key; known are %s", at.member(key), strings.Join(known, ", "))
		}
	}
	return true
}

// required returns an object's member; a missing one is a mistake.
func (r *reader) required(n *node, at *place, key string) *node {
	m := n.get(key)
	if m == nil {
		r.problem("%s: is missing", at.member(key))
	}
	return m
}

func (r *reader) text(n *node, at *place) string {
	if n == nil || !r.want(n, at, text) {
		return ""
	}
	return n.text
}

func (r *reader) flag(n *node, at *place) bool {
	return n != nil && r.want(n, at, boolean) && n.text == "true"
}

// texts reads a list of strings; a missing list is an empty one.
func (r *reader) texts(n *node, at *place) []string {
	if n == nil || !r.want(n, at, list) {
		return nil
	}
	all := make([]string, 0, len(n.items))
	for i := range n.items {
		if r.want(&n.items[i], at.item(i), text) {
			all = append(all, n.items[i].text)
		}
	}
	return all
}

// digests reads a list of digests.
func (r *reader) digests(n *node, at *place) []attest.Digest {
	if n == nil || !r.want(n, at, list) {
		return nil
	}
	all := make([]attest.Digest, 0, len(n.items))
	for i := range n.items {
		item := &n.items[i]
		if !r.want(item, at.item(i), text) {
			continue
		}
		d, err := parseDigest(item.text)
		if err != nil {
			r.problem("%s: %w", at.item(i), err)
			continue
		}
		all = append(all, d)
	}
	return all
}

// digestLists reads an object whose values are non-empty lists of digests, in the order of the document.
func (r *reader) digestLists(n *node, at *place, take func(name string, digests []attest.Digest)) {
	if n == nil || !r.want(n, at, object) {
		return
	}
	for i, name := range n.keys {
		here := at.member(name)
		if n.items[i].kind == list && len(n.items[i].items) == 0 {
			r.problem("%s: lists no digest", here)
			continue
		}
		if digests := r.digests(&n.items[i], here); len(digests) > 0 {
			take(name, digests)
		}
	}
}

// namedDigests reads what digestLists reads into a map.
func (r *reader) namedDigests(n *node, at *place) map[string][]attest.Digest {
	all := map[string][]attest.Digest{}
	r.digestLists(n, at, func(name string, digests []attest.Digest) {
		name = Recorded(name)
		all[name] = append(all[name], digests...)
	})
	return all
}

// parseDigest reads "sha256:digits" or digits alone, whose number tells the algorithm; in lower case, so that one digest has one text.
func parseDigest(s string) (attest.Digest, error) {
	if s != strings.ToLower(s) {
		return attest.Digest{}, fmt.Errorf("digest %.140q: not in lower case", s)
	}
	if strings.Contains(s, ":") {
		return attest.ParseDigest(s)
	}
	for _, h := range attest.Hashes() {
		if len(s) == 2*h.Size() {
			return attest.ParseDigest(h.String() + ":" + s)
		}
	}
	return attest.Digest{}, fmt.Errorf("digest %.140q: %d digits fit none of sha1, sha256, sha384, sha512", s, len(s))
}

// Recorded returns the form in which the kernel records a name: with "_" for each space.
func Recorded(name string) string { return strings.ReplaceAll(name, " ", "_") }

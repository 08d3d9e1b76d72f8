package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/assay-project/assay/attest"
)

// PolicyPath is where a host's IMA policy lies, whose load the kernel measures under this name (POLICY_CHECK).
const PolicyPath = "/etc/ima/ima-policy"

// bootAggregate is the name of the first entry of every list. The quoted PCRs vouch for its digest, not a list of files.
const bootAggregate = "boot_aggregate"

// Runtime is a compiled Runtime document: what a machine may execute, map and load, and how its measurement list has to begin. It is
// read-only and may be shared.
type Runtime struct {
	files    table
	excludes patterns
	// buffers and keyrings hold the digests of measured buffers by their recorded name; a keyring's are those of keys loaded into it.
	buffers, keyrings map[string][]attest.Digest
	// ignoredKeyrings are those whose keys are neither judged nor learned; "*" stands for all.
	ignoredKeyrings []string
	keys            []Key
	imaPolicies     []attest.Digest
	imaPolicyPaths  []string
	earlyBoot       patterns
	violations      patterns
	bootAggregates  []attest.Digest
	allowWeakBank   bool
}

// manyEarly is more than runs before an init loads the policy. The built-in policy tcb measures what root reads, so a list may name the policy's file for a
// mere reading in the middle of a boot, and a document made from it would take all that ran until then for early.
const manyEarly = 100

// readRuntime reads the spec of a native document.
func readRuntime(r *reader, spec *node, at *place) *Runtime {
	if !r.closed(spec, at, "digests", "excludes", "keyrings", "ignoredKeyrings", "imaBuffers", "verificationKeys", "imaPolicies",
		"imaPolicyPaths", "earlyBoot", "allowWeakBank", "violations", "bootAggregates") {
		return nil
	}
	policy := &Runtime{
		files:           readFiles(r, spec.get("digests"), at.member("digests")),
		excludes:        r.patterns(spec, at, "excludes"),
		buffers:         r.namedDigests(spec.get("imaBuffers"), at.member("imaBuffers")),
		keyrings:        r.namedDigests(spec.get("keyrings"), at.member("keyrings")),
		ignoredKeyrings: r.texts(spec.get("ignoredKeyrings"), at.member("ignoredKeyrings")),
		keys:            r.keys(spec.get("verificationKeys"), at.member("verificationKeys")),
		imaPolicies:     r.digests(spec.get("imaPolicies"), at.member("imaPolicies")),
		imaPolicyPaths:  r.texts(spec.get("imaPolicyPaths"), at.member("imaPolicyPaths")),
		earlyBoot:       r.patterns(spec, at, "earlyBoot"),
		violations:      r.patterns(spec, at, "violations"),
		bootAggregates:  r.digests(spec.get("bootAggregates"), at.member("bootAggregates")),
		allowWeakBank:   r.flag(spec.get("allowWeakBank"), at.member("allowWeakBank")),
	}
	if spec.get("imaPolicyPaths") == nil {
		policy.imaPolicyPaths = []string{PolicyPath}
	}
	for i, name := range policy.imaPolicyPaths {
		policy.imaPolicyPaths[i] = Recorded(name)
	}
	if len(policy.imaPolicies) == 0 {
		r.warn("spec.imaPolicies lists no digest: whether an IMA policy was loaded, and which, is not judged by this document alone")
	}
	r.warnSweeping(policy.excludes)
	if n := len(policy.earlyBoot); n > manyEarly {
		r.warn("spec.earlyBoot lets %d patterns come before the IMA policy, which is loaded at the start of a boot: was the list made in a boot that loaded it?", n)
	}
	return policy
}

// readFiles reads the digests of files and unites paths that the kernel records alike.
func readFiles(r *reader, n *node, at *place) table {
	var listings []listing
	r.digestLists(n, at, func(name string, digests []attest.Digest) {
		if !strings.HasPrefix(name, "/") {
			if Recorded(name) == bootAggregate {
				r.problem("%s: the quoted PCRs vouch for it; further values go to spec.bootAggregates", at.member(name))
				return
			}
			r.warn("%s: does not begin with a slash; the kernel records such a name only where a file has no path", at.member(name))
		}
		listings = append(listings, listing{Recorded(name), digests})
	})
	return r.compile(r.unite(listings), at)
}

// compile makes the table, or says that there is no room for it.
func (r *reader) compile(listings []listing, at *place) table {
	if size := maxSize(listings); size > maxRecords {
		r.problem("%s: up to %d bytes once compiled, more than %d", at, size, maxRecords)
		return table{}
	}
	return newTable(listings)
}

// unite merges listings of one recorded path.
func (r *reader) unite(listings []listing) []listing {
	index := make(map[string]int, len(listings))
	united := listings[:0]
	for _, l := range listings {
		i, there := index[l.path]
		if !there {
			index[l.path] = len(united)
			united = append(united, l)
			continue
		}
		r.warn("several paths are recorded as %.200q, and their digests are united: the kernel writes _ for a space", l.path)
		united[i].digests = append(slices.Clip(united[i].digests), l.digests...)
	}
	return united
}

func (r *reader) patterns(spec *node, at *place, key string) patterns {
	n, here := spec.get(key), at.member(key)
	var all patterns
	for i, source := range r.texts(n, here) {
		p, err := compilePattern(source)
		if err != nil {
			r.problem("%s: %w", here.item(i), err)
			continue
		}
		all = append(all, p)
	}
	return all
}

// warnSweeping warns of patterns that take every file out of appraisal, as far as two unlikely paths tell.
func (r *reader) warnSweeping(excludes patterns) {
	for _, p := range excludes {
		if p.match("/\u00e9 1/\u4e2d") && p.match("/Q_9") {
			r.warn("the exclude %.200q takes every file out of appraisal", p.source)
		}
	}
}

func (r *reader) keys(n *node, at *place) []Key {
	sources := r.texts(n, at)
	if len(sources) > MaxKeys {
		r.problem("%s: %d keys, more than %d", at, len(sources), MaxKeys)
		return nil
	}
	var keys []Key
	for i, source := range sources {
		key, err := parsePEMKey(source)
		if err != nil {
			r.problem("%s: %w", at.item(i), err)
			continue
		}
		keys = append(keys, key)
	}
	return keys
}

// Standing says how a document stands to a name and a digest.
type Standing int

const (
	// Unlisted: the document does not name it.
	Unlisted Standing = iota
	// Differs: the document names it with other digests.
	Differs
	// Approved: the document lists the digest for it.
	Approved
)

// String returns the name of the constant.
func (s Standing) String() string { return [...]string{"Unlisted", "Differs", "Approved"}[s] }

func standing(listed []attest.Digest, d attest.Digest) Standing {
	switch {
	case len(listed) == 0:
		return Unlisted
	case slices.Contains(listed, d):
		return Approved
	}
	return Differs
}

// File tells how a file stands, by its recorded path. It does not allocate.
func (p *Runtime) File(path string, d attest.Digest) Standing {
	packed, ok := p.files.find(path)
	switch {
	case !ok:
		return Unlisted
	case holds(packed, &d):
		return Approved
	}
	return Differs
}

// ApprovesFile reports whether File is Approved for a recorded path and a SHA-256 digest that lie elsewhere, in a list.
func (p *Runtime) ApprovesFile(path, sha256 []byte) bool {
	packed, ok := p.files.findBytes(path)
	return ok && holdsBytes(packed, attest.SHA256, sha256)
}

// FileDigests returns the digests that are listed for a recorded path.
func (p *Runtime) FileDigests(path string) []attest.Digest {
	packed, _ := p.files.find(path)
	return unpackDigests(packed)
}

// Files returns how many paths and how many digests the document lists.
func (p *Runtime) Files() (paths, digests int) { return p.files.paths, p.files.digests }

// Excludes reports whether a recorded path is taken out of appraisal.
func (p *Runtime) Excludes(path string) bool { return p.excludes.match(path) }

// Buffer tells how a measured buffer stands, by its recorded name.
func (p *Runtime) Buffer(name string, d attest.Digest) Standing { return standing(p.buffers[name], d) }

// BufferDigests returns the digests that are listed for a buffer.
func (p *Runtime) BufferDigests(name string) []attest.Digest { return slices.Clone(p.buffers[name]) }

// Keyring tells how a key that was loaded into a keyring stands.
func (p *Runtime) Keyring(name string, d attest.Digest) Standing {
	return standing(p.keyrings[name], d)
}

// KeyringDigests returns the digests that are listed for keys of a keyring.
func (p *Runtime) KeyringDigests(name string) []attest.Digest { return slices.Clone(p.keyrings[name]) }

// IgnoresKeyring reports whether keys of a keyring are neither judged nor learned.
func (p *Runtime) IgnoresKeyring(name string) bool {
	return slices.Contains(p.ignoredKeyrings, "*") || slices.Contains(p.ignoredKeyrings, name)
}

// Keys returns the keys that file signatures verify with. A file with a good signature is approved without a digest.
func (p *Runtime) Keys() []Key { return slices.Clone(p.keys) }

// IMAPolicies returns the approved digests of IMA policies: of the file that is loaded by its path, or of the rules that the kernel
// measures as critical data. None means that the loading is not judged.
func (p *Runtime) IMAPolicies() []attest.Digest { return slices.Clone(p.imaPolicies) }

// IMAPolicyPaths returns the recorded paths that IMA policies are loaded from.
func (p *Runtime) IMAPolicyPaths() []string { return slices.Clone(p.imaPolicyPaths) }

// EarlyBoot reports whether a recorded path may be measured before the IMA policy was loaded.
func (p *Runtime) EarlyBoot(path string) bool { return p.earlyBoot.match(path) }

// ExemptsViolation reports whether a violation of a recorded path is no failure. No PCR covers the path of a violation: an exemption for one path
// lets a hostile agent hide a violation of another.
func (p *Runtime) ExemptsViolation(path string) bool {
	return p.violations.match(path) || p.excludes.match(path)
}

// BootAggregates returns values of boot_aggregate that are accepted beside the hash over the quoted PCRs.
func (p *Runtime) BootAggregates() []attest.Digest { return slices.Clone(p.bootAggregates) }

// AllowsWeakBank reports whether a list is accepted that replays only with padded SHA-1 digests.
func (p *Runtime) AllowsWeakBank() bool { return p.allowWeakBank }

// Explain tells, in sentences for people, what the document says of a path or of a buffer's name. It knows nothing of evidence.
func (d *Document) Explain(name string) []string {
	if d.runtime == nil {
		return []string{fmt.Sprintf("%s %s says nothing of files.", d.kind, d.name)}
	}
	p, recorded := d.runtime, Recorded(name)
	var said []string
	say := func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	if recorded != name {
		say("The kernel records %q as %q.", name, recorded)
	}
	if listed := p.FileDigests(recorded); len(listed) > 0 {
		say("File with %d digests: %v.", len(listed), listed)
	}
	if source, ok := p.excludes.find(recorded); ok {
		say("Taken out of appraisal by the exclude %q.", source)
	}
	if source, ok := p.earlyBoot.find(recorded); ok {
		say("May be measured before the IMA policy, by earlyBoot %q.", source)
	}
	if source, ok := p.violations.find(recorded); ok {
		say("Its violations are exempt by %q.", source)
	}
	if slices.Contains(p.imaPolicyPaths, recorded) && len(p.imaPolicies) > 0 {
		say("Place of the IMA policy; %d digests are approved: %v.", len(p.imaPolicies), p.imaPolicies)
	}
	if listed := p.buffers[recorded]; len(listed) > 0 {
		say("Measured buffer with %d digests: %v.", len(listed), listed)
	}
	if listed := p.keyrings[recorded]; len(listed) > 0 {
		say("Keyring with %d approved keys: %v.", len(listed), listed)
	}
	if recorded == bootAggregate {
		say("Must be the hash over the quoted boot PCRs, or one of %d further values: %v.", len(p.bootAggregates), p.bootAggregates)
	}
	if len(said) == 0 || len(said) == 1 && recorded != name {
		say("%s %s does not approve it.", d.kind, d.name)
	}
	return said
}

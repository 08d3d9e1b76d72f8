package policy

import (
	"encoding/base64"
	"fmt"
	"math"
	"regexp"
	"strconv"

	"github.com/assay-project/assay/attest"
)

// generatorActive is the least meta.generator with which Keylime appraises the list at all (2 CompatibleAllowList, 3 LegacyAllowList).
const generatorActive = 2

// ImportKeylime reads Keylime's runtime policy, JSON version 1, as a document of KindRuntime with the given name. The document's bytes stay
// Keylime's. It keeps its meaning, with these exceptions, each of them stricter: a violation is a failure, a signature by one of its keys that does
// not verify is a failure even for a listed digest, and a measured buffer must hash to its digest.
//
// Refused are what cannot keep its meaning: patterns that need Python's look-around or backreferences, dm_policy, and a policy that
// Keylime itself would not apply (generator 0 and 1).
func ImportKeylime(doc []byte, name string) (*Document, error) {
	r := &reader{}
	if err := checkName(name); err != nil {
		r.problem("%w", err)
	}
	if !isJSON(doc) {
		r.problem("a Keylime runtime policy is a JSON object")
		return nil, r.err()
	}
	root, ok := parseTree(doc, r)
	if !ok {
		return nil, r.err()
	}
	d := &Document{kind: KindRuntime, name: name, runtime: readKeylime(r, &root)}
	return d.finish(r, doc)
}

func readKeylime(r *reader, root *node) *Runtime {
	var top *place
	readKeylimeMeta(r, r.required(root, top, "meta"), top.member("meta"))
	if release := r.required(root, top, "release"); release != nil {
		r.natural(release, top.member("release"), math.MaxInt32)
	}
	policy := &Runtime{
		excludes: r.keylimePatterns(r.required(root, top, "excludes"), top.member("excludes")),
		keyrings: r.keylimeDigests(root, "keyrings"),
		buffers:  r.keylimeDigests(root, "ima-buf"),
		keys:     r.keylimeKeys(r.required(root, top, "verification-keys"), top.member("verification-keys")),
	}
	policy.ignoredKeyrings = readKeylimeIMA(r, r.required(root, top, "ima"), top.member("ima"))
	var listings []listing
	for name, digests := range r.keylimeDigests(root, "digests") {
		if name == bootAggregate {
			policy.bootAggregates = digests
			continue
		}
		listings = append(listings, listing{name, digests})
	}
	policy.files = r.compile(listings, top.member("digests"))
	known := map[string]bool{"meta": true, "release": true, "digests": true, "excludes": true, "keyrings": true, "ima": true, "ima-buf": true, "verification-keys": true}
	for _, key := range root.keys {
		if !known[key] {
			r.warn("the member %.80q means nothing to a runtime policy", key)
		}
	}
	return policy
}

func readKeylimeMeta(r *reader, meta *node, at *place) {
	if meta == nil || !r.want(meta, at, object) {
		return
	}
	if version := r.required(meta, at, "version"); version != nil && r.natural(version, at.member("version"), math.MaxInt32) != 1 {
		r.problem("%s: %.20s is not 1", at.member("version"), version.text)
	}
	if generator := r.required(meta, at, "generator"); generator != nil && r.natural(generator, at.member("generator"), 3) < generatorActive {
		r.problem("%s: with %.20s Keylime does not appraise the list; a machine without a policy needs no document", at.member("generator"), generator.text)
	}
}

func readKeylimeIMA(r *reader, n *node, at *place) (ignoredKeyrings []string) {
	if n == nil || !r.want(n, at, object) {
		return nil
	}
	if column := r.required(n, at, "log_hash_alg"); column != nil {
		if _, err := attest.ParseHash(r.text(column, at.member("log_hash_alg"))); err != nil {
			r.problem("%s: %w", at.member("log_hash_alg"), err)
		}
	}
	if dm := n.get("dm_policy"); dm != nil && dm.kind != null {
		r.problem("%s: policies for the device mapper are not supported; Keylime's schema demands null, too", at.member("dm_policy"))
	}
	return r.texts(r.required(n, at, "ignored_keyrings"), at.member("ignored_keyrings"))
}

// natural reads a whole number from 0 to most; anything else is a mistake and gives -1.
func (r *reader) natural(n *node, at *place, most int64) int64 {
	if !r.want(n, at, number) {
		return -1
	}
	value, err := strconv.ParseInt(n.text, 10, 64)
	if err != nil || value < 0 || value > most {
		r.problem("%s: %.40s is no whole number from 0 to %d", at, n.text, most)
		return -1
	}
	return value
}

// keylimeDigests reads an object of digest lists. Keylime compares digits alone; digests of algorithms that Assay does not know are left out.
func (r *reader) keylimeDigests(root *node, key string) map[string][]attest.Digest {
	all := map[string][]attest.Digest{}
	var top *place
	at := top.member(key)
	n := r.required(root, top, key)
	if n == nil || !r.want(n, at, object) {
		return all
	}
	digits := regexp.MustCompile(`^[0-9a-f]{40,128}$`)
	for i, name := range n.keys {
		here, recorded := at.member(name), Recorded(name)
		if n.items[i].kind == list && len(n.items[i].items) == 0 {
			r.problem("%s: lists no digest", here)
		}
		listed := all[recorded]
		for j, text := range r.texts(&n.items[i], here) {
			d, err := parseDigest(text)
			switch {
			case err == nil && digits.MatchString(text):
				listed = append(listed, d)
			case digits.MatchString(text):
				r.warn("%s: %d digits are of no algorithm that Assay reads; no file will match them", here.item(j), len(text))
			default:
				r.problem("%s: digest %.140q is not 40 to 128 lower case hexadecimal digits", here.item(j), text)
			}
		}
		all[recorded] = listed
	}
	return all
}

func (r *reader) keylimePatterns(n *node, at *place) patterns {
	var all patterns
	for i, source := range r.texts(n, at) {
		p, err := compilePrefix(source)
		if err != nil {
			r.problem("%s: %w", at.item(i), err)
			continue
		}
		all = append(all, p)
	}
	r.warnSweeping(all)
	return all
}

// keylimeKeys reads the JSON text in verification-keys: ids and base64 of SubjectPublicKeyInfo, side by side. Empty text means no keys.
func (r *reader) keylimeKeys(n *node, at *place) []Key {
	if n == nil || !r.want(n, at, text) || n.text == "" {
		return nil
	}
	if !isJSON([]byte(n.text)) {
		r.problem("%s: is neither empty nor the text of a JSON object", at)
		return nil
	}
	inner := &reader{}
	root, ok := parseTree([]byte(n.text), inner)
	if !ok {
		r.problem("%s: %w", at, inner.err())
		return nil
	}
	ids, keys := r.required(&root, at, "keyids"), r.required(&root, at, "pubkeys")
	if ids == nil || keys == nil || !r.want(ids, at.member("keyids"), list) || !r.want(keys, at.member("pubkeys"), list) {
		return nil
	}
	if len(ids.items) != len(keys.items) || len(keys.items) > MaxKeys {
		r.problem("%s: %d keyids and %d pubkeys; they stand side by side, %d at most", at, len(ids.items), len(keys.items), MaxKeys)
		return nil
	}
	var all []Key
	for i := range keys.items {
		id := r.natural(&ids.items[i], at.member("keyids").item(i), math.MaxUint32)
		key, err := parseBase64Key(r.text(&keys.items[i], at.member("pubkeys").item(i)))
		if err != nil {
			r.problem("%s: %w", at.member("pubkeys").item(i), err)
			continue
		}
		key.ID = uint32(id)
		all = append(all, key)
	}
	return all
}

func parseBase64Key(source string) (Key, error) {
	der, err := base64.StdEncoding.Strict().DecodeString(source)
	if err != nil {
		return Key{}, fmt.Errorf("is no base64: %w", err)
	}
	return ParseKey(der)
}

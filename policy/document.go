package policy

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/assay-project/assay/attest"
)

// APIVersion is that of all native documents.
const APIVersion = "policy.assay/v1"

// The kinds of documents.
const (
	KindRuntime = "Runtime"
	KindPcr     = "Pcr"
)

// Document is a policy document that was read without a mistake. It does not change, and may be shared.
type Document struct {
	kind, name string
	digest     attest.Digest
	bytes      []byte
	runtime    *Runtime // for KindRuntime
	pcr        *Pcr     // for KindPcr
	warnings   []string
}

// Kind returns KindRuntime or KindPcr.
func (d *Document) Kind() string { return d.kind }

// Name returns metadata.name, or the name that a Keylime policy was imported under.
func (d *Document) Name() string { return d.name }

// Digest returns the SHA-256 of the document's bytes, as they were given.
func (d *Document) Digest() attest.Digest { return d.digest }

// Ref names the document.
func (d *Document) Ref() attest.PolicyRef {
	return attest.PolicyRef{Kind: d.kind, Name: d.name, Digest: d.digest}
}

// Bytes returns a copy of the bytes that were parsed.
func (d *Document) Bytes() []byte { return bytes.Clone(d.bytes) }

// Runtime returns the compiled document of KindRuntime, else nil.
func (d *Document) Runtime() *Runtime { return d.runtime }

// Pcr returns the compiled document of KindPcr, else nil.
func (d *Document) Pcr() *Pcr { return d.pcr }

// Warnings returns what is legal and probably not meant, for the author.
func (d *Document) Warnings() []string { return slices.Clone(d.warnings) }

// Parse reads a native document, in YAML or JSON. Its error joins every mistake with its place.
func Parse(doc []byte) (*Document, error) {
	r := &reader{}
	root, ok := parseTree(doc, r)
	if !ok {
		return nil, r.err()
	}
	d := &Document{}
	if r.closed(&root, nil, "apiVersion", "kind", "metadata", "spec") {
		d.readHead(r, &root)
		d.readSpec(r, &root)
	}
	return d.finish(r, doc)
}

// finish takes the bytes into the document, if there was no mistake.
func (d *Document) finish(r *reader, doc []byte) (*Document, error) {
	if err := r.err(); err != nil {
		return nil, err
	}
	d.bytes, d.digest, d.warnings = bytes.Clone(doc), attest.SHA256.Sum(doc), r.warnings
	return d, nil
}

func (d *Document) readHead(r *reader, root *node) {
	var top *place
	if version := r.required(root, top, "apiVersion"); version != nil && r.text(version, top.member("apiVersion")) != APIVersion {
		r.problem("apiVersion: %.80q is not %s", version.text, APIVersion)
	}
	metadata, at := r.required(root, top, "metadata"), top.member("metadata")
	if metadata == nil || !r.closed(metadata, at, "name") {
		return
	}
	if name := r.required(metadata, at, "name"); name != nil {
		d.name = r.text(name, at.member("name"))
		if err := checkName(d.name); err != nil && name.kind == text {
			r.problem("%s: %w", at.member("name"), err)
		}
	}
}

func (d *Document) readSpec(r *reader, root *node) {
	var top *place
	kind, spec := r.required(root, top, "kind"), r.required(root, top, "spec")
	d.kind = r.text(kind, top.member("kind"))
	switch {
	case kind == nil:
	case d.kind == KindRuntime && spec != nil:
		d.runtime = readRuntime(r, spec, top.member("spec"))
	case d.kind == KindPcr && spec != nil:
		d.pcr = readPcr(r, spec, top.member("spec"))
	case d.kind != KindRuntime && d.kind != KindPcr:
		r.problem("kind: %.80q is none of %s, %s", d.kind, KindRuntime, KindPcr)
	}
}

// checkName accepts what can name a Kubernetes object, and letters in upper case and "_", which names of Keylime policies have.
func checkName(name string) error {
	if name == "" {
		return errors.New("name is empty")
	}
	if len(name) > maxNameBytes {
		return fmt.Errorf("name of %d bytes, more than %d", len(name), maxNameBytes)
	}
	for i, c := range []byte(name) {
		alphanumeric := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alphanumeric && (i == 0 || c != '.' && c != '_' && c != '-') {
			return fmt.Errorf("name %q: byte %d is %q; letters, digits and then also . _ - are accepted", name, i, c)
		}
	}
	return nil
}

// Load reads a stored document: a native one, or a Keylime policy that was imported under ref.Name. The bytes must be those that ref names.
func Load(ref attest.PolicyRef, doc []byte) (*Document, error) {
	if digest := attest.SHA256.Sum(doc); digest != ref.Digest {
		return nil, fmt.Errorf("load policy %.80q: the bytes have digest %s, not %s", ref.Name, digest, ref.Digest)
	}
	d, err := loadAny(ref, doc)
	if err != nil {
		return nil, fmt.Errorf("load policy %.80q: %w", ref.Name, err)
	}
	if d.Ref() != ref {
		return nil, fmt.Errorf("load policy %.80q: the document is %s %q, not %s %q", ref.Name, d.kind, d.name, ref.Kind, ref.Name)
	}
	return d, nil
}

func loadAny(ref attest.PolicyRef, doc []byte) (*Document, error) {
	if isJSON(doc) {
		root, ok := parseTree(doc, &reader{})
		if ok && root.get("apiVersion") == nil {
			return ImportKeylime(doc, ref.Name)
		}
	}
	return Parse(doc)
}

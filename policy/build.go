package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/ima"
)

// Coverage says which files of a tree a Runtime document lists.
type Coverage int

const (
	// Executables lists what IMA's host policy measures: files with an x bit, ELF files, kernel modules and firmware.
	Executables Coverage = iota
	// AllFiles lists every regular file.
	AllFiles
)

// BuildOptions say what a Runtime document is made from: a tree, a list, or both.
type BuildOptions struct {
	// Name is metadata.name.
	Name string
	// Tree is the root file system of a machine. Symbolic links are not followed: the kernel records the path that they lead to.
	Tree     fs.FS
	Coverage Coverage
	// Skip names directories of the tree that are not entered, such as "/proc".
	Skip []string
	// Hash is the kernel's ima_hash; 0 stands for SHA-256.
	Hash attest.Hash
	// List is the measurement list of a machine that is known to be good. It is a claim: whoever uses it vouches for the machine. What it
	// holds before the entry of the IMA policy becomes earlyBoot.
	List *ima.List
	// IMAPolicies are contents of approved IMA policy files. Without any, the list's own is approved.
	IMAPolicies [][]byte
	// Excludes and EarlyBoot are patterns that are taken over.
	Excludes, EarlyBoot []string
	// Progress, when not nil, is called after each file of the tree.
	Progress func(BuildProgress)
}

// BuildProgress says how far BuildRuntime came.
type BuildProgress struct {
	Path string
	// Seen counts regular files, Listed those of them that were hashed, Bytes what was read for it.
	Seen, Listed int
	Bytes        int64
}

// BuildRuntime makes a Runtime document. The same input gives the same bytes. Files are read in pieces; memory grows with the number of
// paths alone. A file that vanishes while it is looked for, or whose name cannot be written in a document, is left out and named in a comment.
func BuildRuntime(ctx context.Context, o BuildOptions) (*Document, error) {
	b := builder{options: o, draft: newDraft(o.Name)}
	if b.options.Hash == 0 {
		b.options.Hash = attest.SHA256
	}
	if !b.options.Hash.Known() {
		return nil, fmt.Errorf("make Runtime document: %w %s", attest.ErrHash, o.Hash)
	}
	for _, content := range o.IMAPolicies {
		b.draft.add(b.draft.imaPolicies, "", b.options.Hash.Sum(content))
	}
	b.draft.excludes, b.draft.earlyBoot = append(b.draft.excludes, o.Excludes...), append(b.draft.earlyBoot, o.EarlyBoot...)
	if o.Tree != nil {
		b.buf = make([]byte, 128<<10)
		if err := fs.WalkDir(o.Tree, ".", func(name string, entry fs.DirEntry, err error) error { return b.visit(ctx, name, entry, err) }); err != nil {
			return nil, fmt.Errorf("make Runtime document: %w", err)
		}
	}
	if o.List != nil {
		b.takeList(*o.List)
	}
	doc, err := Parse(b.draft.yaml())
	if err != nil {
		return nil, fmt.Errorf("make Runtime document: %w", err)
	}
	return doc, nil
}

type builder struct {
	options  BuildOptions
	draft    *draft
	progress BuildProgress
	buf      []byte
}

func (b *builder) visit(ctx context.Context, name string, entry fs.DirEntry, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	recorded := "/" + name
	switch {
	case errors.Is(err, fs.ErrNotExist) && name != ".":
		b.draft.leaveOut(recorded, "vanished")
		return nil
	case err != nil:
		return fmt.Errorf("read %s: %w", recorded, err)
	case entry.IsDir() && b.skips(recorded):
		return fs.SkipDir
	case !entry.Type().IsRegular():
		return nil
	case !utf8.ValidString(name):
		b.draft.leaveOut(recorded, "name is not UTF-8")
		return nil
	}
	b.progress.Path = recorded
	b.progress.Seen++
	err = b.file(ctx, name, entry)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		b.draft.leaveOut(recorded, "vanished")
	case err != nil:
		return fmt.Errorf("read %s: %w", recorded, err)
	}
	if b.options.Progress != nil {
		b.options.Progress(b.progress)
	}
	return nil
}

func (b *builder) skips(directory string) bool {
	for _, skip := range b.options.Skip {
		if path.Clean("/"+skip) == directory {
			return true
		}
	}
	return false
}

// file hashes one regular file, if it is of those that are listed.
func (b *builder) file(ctx context.Context, name string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	f, err := b.options.Tree.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	head, err := io.ReadFull(f, b.buf)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	if b.options.Coverage != AllFiles && !measured(name, info.Mode(), b.buf[:head]) {
		return nil
	}
	sum := b.options.Hash.New()
	for n := head; n > 0; {
		sum.Write(b.buf[:n])
		b.progress.Bytes += int64(n)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if n, err = f.Read(b.buf); err != nil && err != io.EOF {
			return err
		}
	}
	digest, err := attest.NewDigest(b.options.Hash, sum.Sum(nil))
	if err != nil {
		return err
	}
	b.draft.add(b.draft.files, "/"+name, digest)
	b.progress.Listed++
	return nil
}

// measured reports whether IMA's host policy would measure a file: BPRM_CHECK by the x bit, MMAP_CHECK by being ELF, MODULE_CHECK and
// FIRMWARE_CHECK by where such files lie.
func measured(name string, mode fs.FileMode, head []byte) bool {
	if mode&0o111 != 0 || bytes.HasPrefix(head, []byte("\x7fELF")) {
		return true
	}
	if strings.HasPrefix(name, "lib/firmware/") || strings.HasPrefix(name, "usr/lib/firmware/") {
		return true
	}
	for _, end := range []string{".ko", ".ko.xz", ".ko.gz", ".ko.zst"} {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return false
}

// takeList takes every measurement of the IMA PCR into the draft.
func (b *builder) takeList(l ima.List) {
	d := b.draft
	learn := len(b.options.IMAPolicies) == 0
	var early []string
	loaded := false
	for _, e := range l.All() {
		buffer, isBuffer := e.Buffer()
		switch {
		case e.PCR != listPCR || e.Violation || e.Path == bootAggregate:
		case !utf8.ValidString(e.Path):
			d.leaveOut(e.Path, "name is not UTF-8")
		case e.Digest.IsZero():
			d.leaveOut(e.Path, "digest of another algorithm")
		case e.Path == PolicyPath || IsPolicyBuffer(&e):
			if learn || IsPolicyBuffer(&e) {
				d.add(d.imaPolicies, "", e.Digest)
			}
			loaded = true
		case isBuffer:
			d.addBuffer(e, buffer)
		default:
			d.add(d.files, e.Path, e.Digest)
			if !loaded {
				early = append(early, regexp.QuoteMeta(e.Path))
			}
		}
	}
	if loaded {
		d.earlyBoot = append(d.earlyBoot, early...)
	}
}

// IsPolicyBuffer reports whether an entry holds the rules of IMA themselves, which kernels that have it measure as critical data when a
// policy is loaded (label ima_policy).
func IsPolicyBuffer(e *ima.Entry) bool {
	return e.Template == "ima-buf" && strings.HasPrefix(e.Path, "ima_policy")
}

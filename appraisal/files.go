package appraisal

import (
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/ima"
	"github.com/assay-project/assay/policy"
)

// file judges a measured file: approved by its digest, by its signature, or taken out of appraisal. A signature that names one of the
// keys and does not verify with it is a failure even if the digest is approved.
func (w *walk) file(e *ima.Entry) {
	stand, digest := policy.Unlisted, plainDigest(e)
	for _, p := range w.subject.runtimes {
		if stand = max(stand, p.File(e.Path, digest)); stand == policy.Approved {
			break
		}
	}
	signed, reason := w.signature(e)
	switch {
	case signed != invalid && stand == policy.Approved, signed == good, w.excludes(e.Path):
	case signed == invalid:
		w.fail(e, attest.FileSignatureInvalid, nil, "Entry %d: the signature of %.200q is not good: %s.", e.Position, e.Path, reason)
	case stand == policy.Differs:
		w.fail(e, attest.FileDigestMismatch, w.listed(e.Path, (*policy.Runtime).FileDigests), "Entry %d: %.200q has the digest %s, which is not one of those that are listed for it%s.",
			e.Position, e.Path, seen(e), reason)
	default:
		w.fail(e, attest.FileNotInPolicy, nil, "Entry %d: %.200q with digest %s is not listed%s.", e.Position, e.Path, seen(e), reason)
	}
}

// plainDigest returns the digest over a file's content. An fs-verity digest is none: no document lists those.
func plainDigest(e *ima.Entry) attest.Digest {
	if len(e.Template) > len("ima-ng") && e.DigestType() == "verity" {
		return attest.Digest{}
	}
	return e.Digest
}

func (w *walk) excludes(path string) bool {
	return w.any(func(p *policy.Runtime) bool { return p.Excludes(path) })
}

// listed returns what the documents list for a name, for the failure.
func (w *walk) listed(name string, of func(*policy.Runtime, string) []attest.Digest) []attest.Digest {
	var all []attest.Digest
	for _, p := range w.subject.runtimes {
		all = append(all, of(p, name)...)
	}
	return all
}

// buffer judges a measured buffer. Its digest must be its hash, whatever the documents say.
func (w *walk) buffer(e *ima.Entry) {
	content, _ := e.Buffer()
	if e.Digest.IsZero() || e.Digest.Hash().Sum(content) != e.Digest {
		w.fail(e, attest.BufferDigestMismatch, nil, "Entry %d: the buffer %.200q does not hash to its digest %s.", e.Position, e.Path, seen(e))
		return
	}
	if w.loadsPolicy(e) {
		w.imaPolicy(e)
		return
	}
	if _, err := policy.ParseKey(content); err == nil || w.standing(e, (*policy.Runtime).Keyring) != policy.Unlisted {
		w.keyringKey(e, content)
		return
	}
	w.approve(e, (*policy.Runtime).Buffer, (*policy.Runtime).BufferDigests)
}

// keyringKey judges a key that was loaded into a keyring, and learns an approved one.
func (w *walk) keyringKey(e *ima.Entry, der []byte) {
	if w.any(func(p *policy.Runtime) bool { return p.IgnoresKeyring(e.Path) }) {
		return
	}
	if !w.approve(e, (*policy.Runtime).Keyring, (*policy.Runtime).KeyringDigests) || len(w.progress.Keys) >= maxLearnedKeys {
		return
	}
	if key, err := policy.ParseKey(der); err == nil {
		w.keys = append(w.keys, key)
		w.progress.Keys = append(w.progress.Keys, LearnedKey{Keyring: e.Path, DER: append([]byte(nil), der...)})
	}
}

func (w *walk) standing(e *ima.Entry, of func(*policy.Runtime, string, attest.Digest) policy.Standing) policy.Standing {
	stand := policy.Unlisted
	for _, p := range w.subject.runtimes {
		stand = max(stand, of(p, e.Path, e.Digest))
	}
	return stand
}

// approve reports whether a document lists the digest of a buffer, or excludes its name, and makes the failure otherwise.
func (w *walk) approve(e *ima.Entry, of func(*policy.Runtime, string, attest.Digest) policy.Standing, digests func(*policy.Runtime, string) []attest.Digest) (listed bool) {
	switch stand := w.standing(e, of); {
	case stand == policy.Approved:
		return true
	case w.excludes(e.Path):
	case stand == policy.Differs:
		w.fail(e, attest.FileDigestMismatch, w.listed(e.Path, digests), "Entry %d: the buffer %.200q has the digest %s, which is not one of those that are listed for it.", e.Position, e.Path, seen(e))
	default:
		w.fail(e, attest.FileNotInPolicy, nil, "Entry %d: the buffer %.200q with digest %s is not listed.", e.Position, e.Path, seen(e))
	}
	return false
}

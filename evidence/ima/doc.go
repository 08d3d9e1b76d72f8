// Package ima reads the Linux IMA measurement list, in its ASCII and its binary form, and replays it to a quoted PCR.
//
// It trusts nothing in a list. Parse gives a List, a claim: every template hash is recomputed from the entry's own data, with the size
// of the list's column, and a column that differs is kept as a finding. Replay compares the claim with a PCR of a quote.Verified and
// gives Replayed, whose entries the TPM vouches for up to the match; what the list shows beyond it stays pending until a later quote
// covers it unchanged. Replay goes on from a State, so that a round costs what is new.
//
// Not covered by any PCR: the data of a violation (the kernel extends ones in its place, so that path and digest of a violation are
// whatever the agent says), entries of other PCRs, pending entries, and the split between a violation's name that holds a newline and
// the lines after it in ASCII.
//
// Left to others: whether a measured file is allowed and whether its signature is good (appraisal), boot_aggregate (eventlog), telling
// a reboot from a rollback (verifier). Lists of big-endian kernels need ima_canonical_fmt on the kernel's command line.
//
// The forms and the rules are those of security/integrity/ima/ima_fs.c, ima_template.c, ima_template_lib.c, ima_crypto.c and
// ima_queue.c of Linux.
package ima

// Limits of what is read. Memory stays proportional to the bytes that are there; these keep it in bounds at all.
const (
	// MaxListBytes bounds a list; offsets in it fit in 32 bits.
	MaxListBytes = 1 << 30
	// MaxEntries bounds the entries of a list.
	MaxEntries = 1 << 23
	// MaxName bounds a recorded name, in bytes: the kernel's PATH_MAX.
	MaxName = 4096
	// MaxField bounds every other field of an entry, in bytes, and the data of a template that is not known.
	MaxField = 1 << 20
	// MaxTemplates bounds the different templates that are not known in one list.
	MaxTemplates = 64
)

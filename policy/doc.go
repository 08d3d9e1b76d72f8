// Package policy reads policy documents (apiVersion policy.assay/v1, kinds Runtime and Pcr, and Keylime's runtime policies), compiles each
// once into a compact form that many agents share, and makes Runtime documents from a file tree or a measurement list.
//
// It trusts the author of a document, and nothing of how it came here: Parse finds every mistake at once, refuses keys that it does not
// know, and names a document by the digest of its bytes. What a document means for a piece of evidence is left to appraisal, who may
// apply it to whom to the verifier, and signatures of documents to a later package.
//
// Paths are compared as the kernel records them: with "_" for each space (security/integrity/ima/ima_template_lib.c). Native documents may
// be written with spaces; paths that are the same after the mapping are united, with a warning.
package policy

// Limits of a document.
const (
	// MaxDocumentBytes bounds a document.
	MaxDocumentBytes = 64 << 20
	// MaxPatternBytes bounds one regular expression.
	MaxPatternBytes = 4 << 10
	// MaxKeys bounds the verification keys of a document.
	MaxKeys = 256
	// maxNameBytes bounds metadata.name: a DNS subdomain's length, as Kubernetes demands of names.
	maxNameBytes = 253
	// maxDepth bounds the nesting of a document; ours has six levels.
	maxDepth = 16
	// maxProblems bounds the mistakes that are told one by one.
	maxProblems = 100
)

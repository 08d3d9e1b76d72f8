// Package dossier is one quote of a machine with everything that is needed to check it later and elsewhere, in one file.
//
// Parse reads a file and trusts nothing in it; Verify goes the way of every piece of evidence: quote signature and nonce, lists replayed
// to the quoted PCRs, appraisal under the documents in the file. What a file cannot prove is whose AK signed (the credential activation that
// tied it to the EK is over), when the quote was made, and that the nonce was fresh: for that the reader compares node, AK and time with
// what he knows. Where the file comes from and how the result is shown is left to the program. docs/evidence.md describes the format.
package dossier

// Package quote reads TPM 2.0 quotes and checks them against what was asked for.
//
// Parse makes a claim (Quote) out of bytes; Verify compares the claim with an attestation key, a nonce, a PCR selection, the last
// accepted clock and the transport key, and is the only source of Verified, which replay and appraisal build on. A failed check is
// an attest.Failure; an error of Parse is the caller's attest.QuoteMalformed.
//
// It trusts the attestation key it is given, whose attributes package endorsement has checked, and nothing else. What the values
// mean is left to evidence/ima, evidence/eventlog and appraisal. The structures are read here and not by go-tpm, because bytes that
// decide nothing are refused and because a quote is read in every round: its reading may cost little beside the signature.
package quote

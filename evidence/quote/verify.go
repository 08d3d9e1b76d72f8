package quote

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/pcr"
)

// Expected is what a quote is compared with: the verifier's side of one round.
type Expected struct {
	// AK is the enrolled attestation key, whose attributes were checked by endorsement.ParseAK.
	AK endorsement.AK
	// Nonce is the extra data that was asked for. An empty one is never fresh and always fails.
	Nonce []byte
	// Selection is what was asked for. Keylime's agents add PCR 16 by themselves, so that exactly this or this and PCR 16 is accepted.
	Selection pcr.Selection
	// Last is the clock of the last accepted quote of this AK, or nil.
	Last *Clock
	// TransportKey, when not nil, is the exact PEM text of the key that the agent sent; PCR 16 must bind it.
	TransportKey []byte
	// TransportKnown is the PEM text that earlier rounds of this boot showed to be bound, or nil. Within a boot the key must stay; when
	// TransportKey is nil (the agent was asked not to repeat it), PCR 16 must bind this one. After a Reset or a Restart it is not
	// compared: whoever then tells Resume from Restart finds the new one in Verified.TransportKey.
	TransportKnown []byte
}

// Verify checks a quote against what was asked for. All checks run, and every failure is returned.
//
// A Verified is valid if nothing failed, or if ClockRollback alone failed: that failure is itself proven by the quote. After any other
// failure it is the zero value.
func Verify(q Quote, want Expected) (Verified, []attest.Failure) {
	continuity, clockFailures := verifyClock(q.attest.clock, want.Last)
	failures := verifySignature(q, want.AK)
	failures = append(failures, verifyNonce(q, want.Nonce)...)
	failures = append(failures, verifySelection(q, want.Selection)...)
	failures = append(failures, verifyDigest(q, want.AK)...)
	bound, transportFailures := verifyTransportKey(q.values, continuity, want)
	failures = append(failures, transportFailures...)
	if len(failures) > 0 {
		return Verified{}, append(failures, clockFailures...)
	}
	return Verified{
		valid:        true,
		values:       q.values,
		clock:        q.attest.clock,
		continuity:   continuity,
		akName:       want.AK.Name(),
		signer:       bytes.Clone(q.attest.signer),
		firmware:     q.attest.firmware,
		digest:       attest.SHA256.Sum(q.raw.Attest),
		transportKey: bytes.Clone(bound),
	}, clockFailures
}

func fail(id attest.FailureID, format string, args ...any) []attest.Failure {
	return []attest.Failure{attest.Fail(id, fmt.Sprintf(format, args...))}
}

func verifyClock(now Clock, last *Clock) (Continuity, []attest.Failure) {
	if last == nil {
		return FirstSeen, nil
	}
	continuity, ok := now.Since(*last)
	if !ok {
		return RolledBack, fail(attest.ClockRollback, "The TPM shows %s after %s.", now, *last)
	}
	return continuity, nil
}

// verifySignature leaves the TPMT_SIGNATURE to the key, which takes its own scheme and hash only: SHA-256 or better.
func verifySignature(q Quote, ak endorsement.AK) []attest.Failure {
	if !ak.Valid() {
		return fail(attest.AkUnknown, "There is no checked attestation key to verify the quote with.")
	}
	err := ak.VerifySignature(q.raw.Attest, q.raw.Signature)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, endorsement.ErrSignatureInvalid):
		return fail(attest.QuoteSignatureInvalid, "Attestation key %x: %v.", ak.Name(), err)
	}
	return fail(attest.QuoteMalformed, "The quote's signature cannot be read: %v.", err)
}

func verifyNonce(q Quote, nonce []byte) []attest.Failure {
	if len(nonce) == 0 {
		return fail(attest.NonceMismatch, "No nonce was expected, so that nothing shows that the quote is fresh.")
	}
	if !bytes.Equal(q.attest.extraData, nonce) {
		return fail(attest.NonceMismatch, "The quote carries the nonce %x, not %x.", q.attest.extraData, nonce)
	}
	return nil
}

// verifySelection compares the signed selection with the one of the values, which an agent may relabel at will, and with the request.
func verifySelection(q Quote, asked pcr.Selection) []attest.Failure {
	if len(q.attest.selections) != 1 {
		return fail(attest.BankMismatch, "The quote signs %d selections, %s was asked for.", len(q.attest.selections), asked)
	}
	var failures []attest.Failure
	signed := q.attest.selections[0]
	if shown := q.values.Selection(); shown != signed {
		failures = fail(attest.SelectionMismatch, "The quote signs %s, the values are labelled %s.", signed, shown)
	}
	if signed.Bank != asked.Bank {
		return append(failures, fail(attest.BankMismatch, "The quote signs bank %s, bank %s was asked for.", signed.Bank, asked.Bank)...)
	}
	if missing := (pcr.Selection{Bank: asked.Bank, Mask: asked.Mask &^ signed.Mask}); missing.Mask != 0 {
		failures = append(failures, fail(attest.PcrMissing, "The quote lacks %s of the %s that were asked for.", missing, asked)...)
	}
	allowed := asked.With(pcr.Debug)
	if extra := (pcr.Selection{Bank: asked.Bank, Mask: signed.Mask &^ allowed.Mask}); extra.Mask != 0 {
		failures = append(failures, fail(attest.PcrUnexpected, "The quote holds %s beyond the %s that were asked for.", extra, asked)...)
	}
	return failures
}

// verifyDigest compares the values with the signed composite, whose algorithm is that of the key's scheme (TPM 2.0 Part 3, TPM2_Quote).
func verifyDigest(q Quote, ak endorsement.AK) []attest.Failure {
	_, hash := ak.Scheme()
	if !hash.Known() {
		return nil // no key, so no algorithm: verifySignature tells
	}
	composite := q.values.Composite(hash)
	if !bytes.Equal(composite.Bytes(), q.attest.pcrDigest) {
		return fail(attest.PcrDigestMismatch, "The values of %s hash to %s, the quote signs %x.", q.values.Selection(), composite, q.attest.pcrDigest)
	}
	return nil
}

// verifyTransportKey returns the key that PCR 16 binds: Keylime's agents reset it and extend it with H(PEM) before each quote, H being
// the bank's algorithm.
func verifyTransportKey(values pcr.Values, continuity Continuity, want Expected) (bound []byte, failures []attest.Failure) {
	known := want.TransportKnown
	if continuity == NewBoot || continuity == Resumed {
		known = nil
	}
	key := want.TransportKey
	if key == nil {
		key = known
	}
	if key == nil {
		return nil, nil
	}
	if known != nil && !bytes.Equal(key, known) {
		failures = fail(attest.TransportKeyMismatch, "The transport key changed within a boot.")
	}
	value, quoted := values.Get(pcr.Debug)
	if !quoted {
		return nil, append(failures, fail(attest.TransportKeyMismatch, "PCR %d, which binds the transport key, is not in the quote.", pcr.Debug)...)
	}
	expected := pcr.Extend(pcr.Initial(values.Bank, pcr.Debug), values.Bank.Sum(key).Bytes())
	if value != expected {
		failures = append(failures, fail(attest.TransportKeyMismatch, "PCR %d is %s; the transport key that was sent makes it %s.", pcr.Debug, value, expected)...)
	}
	return key, failures
}

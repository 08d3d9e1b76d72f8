package quote

import (
	"bytes"
	"fmt"
	"maps"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
)

// Bounds of what is read. The largest quote of a TPM with SHA-512 names and an RSA-4096 key stays far below.
const (
	maxAttestBytes    = 1024
	maxSignatureBytes = 1024
)

// Raw is a quote as an agent sent it, unpacked from its transport.
type Raw struct {
	// Attest is the TPMS_ATTEST and Signature the TPMT_SIGNATURE, big-endian as the TPM wrote them, without a TPM2B length before them.
	Attest    []byte `json:"attest"`
	Signature []byte `json:"signature"`
	// Selections says which PCRs Digests holds the values of: unsigned, in the order of the transport.
	Selections []pcr.Selection `json:"selections"`
	// Digests are the values, in ascending order of PCRs within each selection.
	Digests [][]byte `json:"digests"`
}

// Quote is a well-formed quote: a claim, of which nothing is proven yet.
type Quote struct {
	raw    Raw
	attest attestation
	values pcr.Values // under the unsigned selection
}

// Parse reads a quote. It refuses trailing bytes, other types of attestation, banks of values that are not known, and values whose number
// or size does not fit their selection. The signature is read by Verify, with the key. The caller reports an error as attest.QuoteMalformed.
func Parse(raw Raw) (Quote, error) {
	if len(raw.Attest) > maxAttestBytes {
		return Quote{}, fmt.Errorf("parse quote: TPMS_ATTEST has %d bytes, more than %d", len(raw.Attest), maxAttestBytes)
	}
	if len(raw.Signature) > maxSignatureBytes {
		return Quote{}, fmt.Errorf("parse quote: TPMT_SIGNATURE has %d bytes, more than %d", len(raw.Signature), maxSignatureBytes)
	}
	raw.Attest, raw.Signature = bytes.Clone(raw.Attest), bytes.Clone(raw.Signature)
	signed, err := parseAttestation(raw.Attest)
	if err != nil {
		return Quote{}, fmt.Errorf("parse quote: TPMS_ATTEST: %w", err)
	}
	values, err := parseValues(raw.Selections, raw.Digests)
	if err != nil {
		return Quote{}, fmt.Errorf("parse quote: PCR values: %w", err)
	}
	return Quote{raw: raw, attest: signed, values: values}, nil
}

// parseValues joins values with their unsigned selection, which must be one: the composite digest of several banks cannot be asked for.
func parseValues(selections []pcr.Selection, digests [][]byte) (pcr.Values, error) {
	if len(selections) != 1 {
		return pcr.Values{}, fmt.Errorf("%d selections, not 1", len(selections))
	}
	selection := selections[0]
	if !selection.Bank.Known() {
		return pcr.Values{}, fmt.Errorf("selection: %w %s", attest.ErrHash, selection.Bank)
	}
	if selection.Mask >= 1<<pcr.Count {
		return pcr.Values{}, fmt.Errorf("selection %#x names a PCR beyond %d", selection.Mask, pcr.Count-1)
	}
	if len(digests) != selection.Len() {
		return pcr.Values{}, fmt.Errorf("%d values for the %d PCRs of %s", len(digests), selection.Len(), selection)
	}
	values := pcr.Values{Bank: selection.Bank, Digests: make(map[int]attest.Digest, len(digests))}
	for i, p := range selection.PCRs() {
		digest, err := attest.NewDigest(selection.Bank, digests[i])
		if err != nil {
			return pcr.Values{}, fmt.Errorf("PCR %d: %w", p, err)
		}
		values.Digests[p] = digest
	}
	return values, nil
}

// Raw returns the bytes that were parsed, to be kept as evidence. They are not to be changed.
func (q Quote) Raw() Raw { return q.raw }

// Clock returns the clock that the quote claims.
func (q Quote) Clock() Clock { return q.attest.clock }

// Nonce returns a copy of the extra data that the quote claims to have been asked with.
func (q Quote) Nonce() []byte { return bytes.Clone(q.attest.extraData) }

// Verified is a quote whose signature, nonce, selection and values passed Verify. The zero value is no evidence: Valid is false.
type Verified struct {
	valid        bool
	values       pcr.Values
	clock        Clock
	continuity   Continuity
	akName       []byte
	signer       []byte
	firmware     uint64
	digest       attest.Digest
	transportKey []byte
}

// Valid reports whether v came from Verify. Whoever takes a Verified reports attest.EvidenceUnverified when it does not hold.
func (v Verified) Valid() bool { return v.valid }

// Values returns a copy of the quoted PCR values.
func (v Verified) Values() pcr.Values {
	return pcr.Values{Bank: v.values.Bank, Digests: maps.Clone(v.values.Digests)}
}

// Value returns the quoted value of PCR p; ok is false for a PCR that was not quoted.
func (v Verified) Value(p int) (value attest.Digest, ok bool) { return v.values.Get(p) }

// Selection returns the signed selection.
func (v Verified) Selection() pcr.Selection { return v.values.Selection() }

// Clock returns the signed clock.
func (v Verified) Clock() Clock { return v.clock }

// Continuity says how the clock follows the last accepted one.
func (v Verified) Continuity() Continuity { return v.continuity }

// AKName returns the TPM name of the key that signed.
func (v Verified) AKName() []byte { return bytes.Clone(v.akName) }

// QualifiedSigner returns the signed qualified name of the key that signed: it tells under which parents and in which hierarchy the key
// is (TPM 2.0 Part 1, "Qualified Name"). Only a key of the endorsement hierarchy shows the TPM's counters as they are.
func (v Verified) QualifiedSigner() []byte { return bytes.Clone(v.signer) }

// Firmware returns the signed firmware version, whose form is the vendor's own.
func (v Verified) Firmware() uint64 { return v.firmware }

// Digest names the quote: SHA-256 over the TPMS_ATTEST.
func (v Verified) Digest() attest.Digest { return v.digest }

// TransportKey returns the PEM text of the key that PCR 16 of this quote was shown to bind, or nil if none was expected.
func (v Verified) TransportKey() []byte { return bytes.Clone(v.transportKey) }

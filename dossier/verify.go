package dossier

import (
	"bytes"
	"crypto/x509"
	"fmt"

	"github.com/assay-project/assay/appraisal"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/eventlog"
	"github.com/assay-project/assay/evidence/ima"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/policy"
)

// imaPCR is the PCR of the measurement list; containerPCR may hold container measurements. Boot appraisal leaves both to their lists.
const (
	imaPCR       = 10
	containerPCR = 11
)

// Result is what a dossier proves.
type Result struct {
	// Verdict is Trusted, Failed, or Unappraised where the dossier holds no policies.
	Verdict  attest.Verdict   `json:"verdict"`
	Failures []attest.Failure `json:"failures"`
	// Policies are the documents that were applied.
	Policies []attest.PolicyRef `json:"policies"`
	// Quote, AKName and Clock are what the quote says: they are set only where it verifies.
	Quote  attest.Digest `json:"quote,omitzero"`
	AKName []byte        `json:"akName,omitempty"`
	Clock  *quote.Clock  `json:"clock,omitempty"`
	// Entries is how many entries of the list are proven.
	Entries uint64 `json:"entries"`
	// BoundToEK: the quote names its signer as a child of the EK.
	BoundToEK bool `json:"boundToEK"`
	// EndorsedBy is the root that the EK's certificates lead to, Unendorsed says why there is none. The verdict does not rest on it.
	EndorsedBy string `json:"endorsedBy,omitempty"`
	Unendorsed string `json:"unendorsed,omitempty"`
}

// Verify checks everything in a dossier. roots are those that the reader believes. An error says that a document could not be read.
func (d Dossier) Verify(roots *endorsement.Roots) (Result, error) {
	var r Result
	var documents []*policy.Document
	for _, p := range d.Policies {
		document, err := policy.Load(p.Ref, p.Document)
		if err != nil {
			return Result{}, fmt.Errorf("policy %.80q: %w", p.Ref.Name, err)
		}
		documents = append(documents, document)
	}
	ak, v, failures := d.verifyQuote()
	r.fail(failures...)
	if !v.Valid() {
		r.Verdict = attest.Failed
		return r, nil
	}
	clock := v.Clock()
	r.Quote, r.AKName, r.Clock = v.Digest(), v.AKName(), &clock
	r.endorse(d, ak, v, roots)
	evidence := appraisal.Evidence{Quote: v}
	sent := r.replay(d, v, &evidence)
	result, _ := appraisal.Appraise(appraisal.Input{Evidence: evidence, Policies: documents, RefusedIMAPolicies: d.RefusedIMAPolicies})
	for _, f := range result.Failures {
		if f.ID != attest.EvidenceMissing || sent { // what was sent and does not replay is not missing as well
			r.fail(f)
		}
	}
	r.Policies = result.Policies
	switch {
	case len(r.Failures) > 0:
		r.Verdict = attest.Failed
	case result.Passed():
		r.Verdict = attest.Trusted
	default:
		r.Verdict = attest.Unappraised
	}
	return r, nil
}

func (r *Result) fail(failures ...attest.Failure) { r.Failures = append(r.Failures, failures...) }

// verifyQuote checks AK, signature and nonce. What was asked for is not known, so the signed selection stands for it: a PCR that a policy
// needs and that was not quoted fails in appraisal.
func (d Dossier) verifyQuote() (endorsement.AK, quote.Verified, []attest.Failure) {
	ak, failures, err := endorsement.ParseAK(d.AK)
	if err != nil {
		return ak, quote.Verified{}, []attest.Failure{attest.Fail(attest.AkUnknown, err.Error())}
	}
	if len(failures) > 0 {
		return ak, quote.Verified{}, failures
	}
	claim, err := quote.Parse(d.Quote)
	if err != nil {
		return ak, quote.Verified{}, []attest.Failure{attest.Fail(attest.QuoteMalformed, err.Error())}
	}
	if len(d.Quote.Selections) != 1 {
		return ak, quote.Verified{}, []attest.Failure{attest.Fail(attest.QuoteMalformed, fmt.Sprintf("%d PCR selections, want 1", len(d.Quote.Selections)))}
	}
	v, failures := quote.Verify(claim, quote.Expected{AK: ak, Nonce: []byte(d.Nonce), Selection: d.Quote.Selections[0]})
	return ak, v, failures
}

// endorse ties the AK to the EK, and the EK to its certificates, as far as the file can.
func (r *Result) endorse(d Dossier, ak endorsement.AK, v quote.Verified, roots *endorsement.Roots) {
	ek, err := endorsement.ParseEK(d.EK)
	if err != nil {
		r.fail(attest.Fail(attest.EkNotEndorsed, err.Error()))
		return
	}
	child := ek.QualifiedChild(ak)
	r.BoundToEK = child != nil && bytes.Equal(child, v.QualifiedSigner())
	if len(d.Chain) > 0 {
		leaf, err := x509.ParseCertificate(d.Chain[0])
		if err != nil {
			r.fail(attest.Fail(attest.EkNotEndorsed, "EK certificate: "+err.Error()))
			return
		}
		if spki, err := x509.MarshalPKIXPublicKey(leaf.PublicKey); err != nil || !bytes.Equal(spki, ek.SPKI()) {
			r.fail(attest.Fail(attest.EkNotEndorsed, "The EK certificate is for another key than the EK."))
			return
		}
	}
	by, failures := roots.Check(ek, d.Chain, d.At)
	if len(failures) > 0 {
		r.Unendorsed = failures[0].Detail
		return
	}
	r.EndorsedBy = by.Root
}

// replay replays list and boot log to the quote. It reports whether everything that was sent replays.
func (r *Result) replay(d Dossier, v quote.Verified, into *appraisal.Evidence) bool {
	good := true
	if len(d.List) > 0 {
		good = r.replayList(d.List, v, into)
	}
	if len(d.BootLog) > 0 {
		log, err := eventlog.Parse(d.BootLog)
		if err != nil {
			r.fail(attest.Fail(attest.EventLogMalformed, err.Error()))
			return false
		}
		replayed, failures := log.Replay(v, pcr.Select(v.Values().Bank, imaPCR, containerPCR))
		r.fail(failures...)
		if !replayed.Valid() {
			return false
		}
		into.EventLog = &replayed
	}
	return good
}

func (r *Result) replayList(text []byte, v quote.Verified, into *appraisal.Evidence) bool {
	list, err := ima.ParseASCII(text)
	if err != nil {
		r.fail(attest.Fail(attest.ListMalformed, err.Error()))
		return false
	}
	replayed, failures := list.Replay(v, ima.Request{PCR: imaPCR})
	r.fail(failures...)
	if !replayed.Valid() {
		return false
	}
	into.IMA, r.Entries = &replayed, replayed.State().Position
	if beyond := uint64(list.Len()) - r.Entries; beyond > 0 {
		r.fail(attest.Fail(attest.ListPcrMismatch, fmt.Sprintf("The last %d entries of the list are not covered by the quote.", beyond)))
		return false
	}
	return true
}

// Covered cuts a list to what the quote covers; one that does not lead to the quote stays whole, so that Verify tells why.
func (d Dossier) Covered(list []byte) []byte {
	_, v, _ := d.verifyQuote()
	parsed, err := ima.ParseASCII(list)
	if err != nil {
		return list
	}
	replayed, _ := parsed.Replay(v, ima.Request{PCR: imaPCR})
	if !replayed.Valid() {
		return list
	}
	return replayed.ASCII()
}

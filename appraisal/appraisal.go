package appraisal

import (
	"strings"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/eventlog"
	"github.com/assay-project/assay/evidence/ima"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/policy"
)

// imaPCR is the PCR of the measurement list (CONFIG_IMA_MEASURE_PCR_IDX).
const imaPCR = 10

// Evidence is what one round proved. IMA and EventLog are nil if the agent did not send them.
type Evidence struct {
	Quote    quote.Verified
	IMA      *ima.Replayed
	EventLog *eventlog.Replayed
}

// Input is one appraisal: evidence, the documents that apply, and what earlier rounds of this boot told.
type Input struct {
	Evidence Evidence
	Policies []*policy.Document
	Progress Progress
	// RefusedIMAPolicies are IMA policies that no document's word makes good.
	RefusedIMAPolicies []attest.Digest
}

// Progress is what appraisal carries from round to round of one boot. The zero value is the start of a list. It holds no secrets, and
// whoever stores it must keep others from changing it.
type Progress struct {
	// Position counts the entries from boot on that were judged. The next list has to go on from there.
	Position uint64 `json:"position"`
	// BootAggregate says that boot_aggregate was there and good.
	BootAggregate bool `json:"bootAggregate,omitempty"`
	// IMAPolicy says that an approved IMA policy was loaded.
	IMAPolicy bool `json:"imaPolicy,omitempty"`
	// Keys are approved keys that were loaded into keyrings. Later entries may be signed with them.
	Keys []LearnedKey `json:"keys,omitempty"`
}

// LearnedKey is a key that the list showed being loaded, as a certificate or public key in DER.
type LearnedKey struct {
	Keyring string `json:"keyring"`
	DER     []byte `json:"der"`
}

// maxLearnedKeys bounds Progress.Keys. A key beyond it vouches for no file.
const maxLearnedKeys = 64

// check is one rule over the subject. Checks see nothing of each other.
type check func(*subject) []attest.Failure

// checks are all rules but those over entries of the list, of which walk.judge chooses one for each entry.
var checks = [...]check{
	documentsParsed,
	evidenceVerified,
	evidencePresent,
	bankStrong,
	pcrValuesAllowed,
}

// Appraise applies the documents to the evidence. Every check is made, and every failure is returned, up to attest.MaxFailures. Without
// documents nothing fails and the result does not pass: the verdict is Unappraised.
//
// Progress goes on even where entries fail: whoever keeps it knows the verdict too, and what leads out of it starts from zero.
func Appraise(in Input) (attest.Result, Progress) {
	s := newSubject(in)
	result := attest.Result{Policies: s.refs}
	for _, check := range checks {
		result.Add(check(s)...)
	}
	progress := s.walkList(&result)
	result.Appraised = true
	return result, progress
}

// Needs returns the PCRs that have to be quoted: those of the list and of boot_aggregate always, and those that Pcr documents list.
func Needs(documents []*policy.Document) pcr.Selection {
	s := pcr.Select(attest.SHA256, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, imaPCR)
	for _, d := range documents {
		if d != nil && d.Pcr() != nil {
			s.Mask |= d.Pcr().Selection(s.Bank).Mask
		}
	}
	return s
}

// subject is an input, sorted for the checks. Checks read it and do not change it.
type subject struct {
	in       Input
	refs     []attest.PolicyRef
	runtimes []*policy.Runtime
	// names are those of the Runtime documents, for failures of their union.
	names  string
	pcrs   []*policy.Document
	values pcr.Values
	// list is the measurement list if this quote vouches for it, else nil.
	list *ima.Replayed
	// broken counts documents that were not parsed.
	broken int
}

func newSubject(in Input) *subject {
	s := &subject{in: in, refs: []attest.PolicyRef{}, values: in.Evidence.Quote.Values()}
	var names []string
	for _, d := range in.Policies {
		switch {
		case d == nil || d.Runtime() == nil && d.Pcr() == nil:
			s.broken++
			continue
		case d.Runtime() != nil:
			s.runtimes = append(s.runtimes, d.Runtime())
			names = append(names, d.Name())
		default:
			s.pcrs = append(s.pcrs, d)
		}
		s.refs = append(s.refs, d.Ref())
	}
	s.names = strings.Join(names, ", ")
	if len(unverified(in.Evidence)) == 0 {
		s.list = in.Evidence.IMA
	}
	return s
}

package policy

import (
	"slices"
	"strconv"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
)

// Pcr is a compiled Pcr document: the values that PCRs may have, by bank. It is read-only and may be shared.
type Pcr struct {
	banks map[attest.Hash]bankValues
}

type bankValues [pcr.Count][]attest.Digest

// PCRs that change for reasons that no document can list: the measurement list's, Keylime's transport key binding, and the one that
// applications may reset.
const (
	listPCR        = 10
	containerPCR   = 11
	applicationPCR = 23
)

// readPcr reads the spec of a native document.
func readPcr(r *reader, spec *node, at *place) *Pcr {
	if !r.closed(spec, at, "pcrs") {
		return nil
	}
	banks, here := r.required(spec, at, "pcrs"), at.member("pcrs")
	if banks == nil || !r.want(banks, here, object) {
		return nil
	}
	policy := &Pcr{banks: map[attest.Hash]bankValues{}}
	for i, name := range banks.keys {
		bank, err := attest.ParseHash(name)
		if err != nil {
			r.problem("%s: %w", here.member(name), err)
			continue
		}
		policy.banks[bank] = readBank(r, bank, &banks.items[i], here.member(name))
	}
	if _, ok := policy.banks[attest.SHA256]; !ok {
		r.warn("spec.pcrs has no bank sha256, which is the one that is quoted: every machine will lack the evidence")
	}
	return policy
}

func readBank(r *reader, bank attest.Hash, n *node, at *place) (values bankValues) {
	r.digestLists(n, at, func(name string, digests []attest.Digest) {
		p, err := strconv.Atoi(name)
		here := at.member(name)
		switch {
		case err != nil || p < 0 || p >= pcr.Count || strconv.Itoa(p) != name:
			r.problem("%s: is no PCR from 0 to %d", here, pcr.Count-1)
			return
		case p == listPCR || p == pcr.Debug || p == applicationPCR:
			r.problem("%s: PCR %d is left to the measurement list (%d), the transport key (%d) or applications (%d)", here, p, listPCR, pcr.Debug, applicationPCR)
			return
		case p == containerPCR:
			r.warn("%s: container measurement extends PCR %d on machines that have it", here, p)
		}
		for i, d := range digests {
			if d.Hash() != bank {
				r.problem("%s: %s is no value of bank %s", here.item(i), d, bank)
			}
		}
		values[p] = digests
	})
	return values
}

// Selection returns the PCRs that the document lists values for in a bank.
func (p *Pcr) Selection(bank attest.Hash) pcr.Selection {
	s := pcr.Selection{Bank: bank}
	for i, allowed := range p.banks[bank] {
		if len(allowed) > 0 {
			s = s.With(i)
		}
	}
	return s
}

// Allowed returns the values that a PCR may have; none for one that the document does not list.
func (p *Pcr) Allowed(bank attest.Hash, index int) []attest.Digest {
	if index < 0 || index >= pcr.Count {
		return nil
	}
	values := p.banks[bank]
	return slices.Clone(values[index])
}

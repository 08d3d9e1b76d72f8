package verifier

import (
	"fmt"

	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/verifier/machine"
	"github.com/assay-project/assay/wire"
)

// Signer finds the AK that a stored quote verifies under, among the enrolled one and those before it; ErrExpired when it is no longer known.
func (e Enrolment) Signer(q machine.StoredQuote) ([]byte, error) {
	raw, err := wire.UnpackQuote(q.Packed)
	if err != nil {
		return nil, err
	}
	claim, err := quote.Parse(raw)
	if err != nil {
		return nil, err
	}
	for _, public := range append([][]byte{e.AK}, e.Former...) {
		ak, failures, err := endorsement.ParseAK(public)
		if err != nil || len(failures) > 0 {
			continue
		}
		if v, _ := quote.Verify(claim, quote.Expected{AK: ak, Nonce: []byte(q.Nonce), Selection: q.Selection()}); v.Valid() {
			return public, nil
		}
	}
	return nil, fmt.Errorf("%w: the attestation key that signed it gave way to %d others, of which the last are known", ErrExpired, maxFormer)
}

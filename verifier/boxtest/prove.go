package boxtest

import (
	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/evidence/quote/quotetest"
)

// Prove answers a session's challenge as an agent with this AK and TLS key does.
func Prove(signer *quotetest.Signer, challenge []byte, key attest.Digest) api.SessionProof {
	qualifying := attest.SHA256.Sum([]byte(api.SessionDomain), challenge, key.Bytes())
	structure, signature := signer.Certify(qualifying.Bytes(), quote.Clock{Clock: 1})
	return api.SessionProof{Attest: structure, Signature: signature}
}

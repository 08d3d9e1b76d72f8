package endorsement

import (
	"fmt"
	"io"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
)

// Credential is a secret that only the TPM with the EK can open, and only if it also holds the named AK (TPM 2.0 Part 1, "Credential Protection").
type Credential struct {
	// IDObject is a TPMS_ID_OBJECT (hmac, then the encrypted TPM2B_DIGEST), Secret the encrypted seed: an RSA-OAEP ciphertext or a
	// TPMS_ECC_POINT. Neither has the size prefix of its TPM2B.
	IDObject, Secret []byte
}

// MakeCredential encrypts secret for the TPM that holds ek, to be released only where the object named akName is loaded. rand gives the seed; secret
// is at most as long as the digest of the EK's name algorithm, which is what TPM2_ActivateCredential takes.
func MakeCredential(rand io.Reader, ek EK, akName []byte, secret []byte) (Credential, error) {
	if !ek.Valid() {
		return Credential{}, fmt.Errorf("make credential: no endorsement key")
	}
	if limit := attest.Hash(ek.public.area.NameAlg).Size(); len(secret) == 0 || len(secret) > limit {
		return Credential{}, fmt.Errorf("make credential: secret has %d bytes, the key takes 1 to %d", len(secret), limit)
	}
	if len(akName) < 2 {
		return Credential{}, fmt.Errorf("make credential: object name has %d bytes", len(akName))
	}
	key, err := tpm2.ImportEncapsulationKey(ek.public.area)
	if err != nil {
		return Credential{}, fmt.Errorf("make credential: %w", err)
	}
	idObject, encrypted, err := tpm2.CreateCredential(rand, key, akName, secret)
	if err != nil {
		return Credential{}, fmt.Errorf("make credential: %w", err)
	}
	return Credential{IDObject: idObject, Secret: encrypted}, nil
}

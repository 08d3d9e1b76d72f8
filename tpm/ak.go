package tpm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/endorsement"
)

// Blob is an attestation key as it is kept on disk. Private is wrapped by its endorsement key: only this TPM can load it, and not after TPM2_Clear.
type Blob struct {
	// EK is the kind of the endorsement key that is its parent.
	EK Algorithm `json:"ek"`
	// Public is the TPM2B_PUBLIC, Private the contents of the TPM2B_PRIVATE.
	Public  []byte `json:"public"`
	Private []byte `json:"private"`
}

// AK is an attestation key that this TPM has loaded once; it is loaded again as needed.
type AK struct {
	blob Blob
	key  endorsement.AK
}

// Blob returns what the caller keeps to load the key again.
func (ak AK) Blob() Blob { return ak.blob }

// Key returns the public key, which passed the rules of the trust model.
func (ak AK) Key() endorsement.AK { return ak.key }

// loadedAK is the attestation key that occupies a slot of the TPM; its handle is valid where key is.
type loadedAK struct {
	key    endorsement.AK
	handle tpm2.TPMHandle
}

// Kinds says which keys to use: EK for the endorsement key, AK for the attestation key. Each is RSA2048 by default.
type Kinds struct{ EK, AK Algorithm }

// CreateAK makes an attestation key as child of the endorsement key: restricted, for signing only, not under dictionary-attack protection (a locked TPM
// still attests), without password. RSA2048 signs by RSASSA, ECC256 by ECDSA, both with SHA-256.
func (t *TPM) CreateAK(kinds Kinds) (AK, error) {
	if kinds.EK == "" {
		kinds.EK = RSA2048
	}
	template, err := akTemplate(kinds.AK)
	if err != nil {
		return AK{}, fmt.Errorf("create attestation key: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	ak := AK{blob: Blob{EK: kinds.EK}}
	err = t.withEK(kinds.EK, func(ek tpm2.AuthHandle, _ []byte) error {
		rsp, err := tpm2.Create{ParentHandle: ek, InPublic: tpm2.New2B(template)}.Execute(t.device)
		if err != nil {
			return err
		}
		ak.blob.Public, ak.blob.Private = tpm2.Marshal(rsp.OutPublic), rsp.OutPrivate.Buffer
		return nil
	})
	if err != nil {
		return AK{}, explain("create attestation key", err)
	}
	if ak.key, err = parseAK(ak.blob.Public); err != nil {
		return AK{}, fmt.Errorf("create attestation key: %w", err)
	}
	return ak, nil
}

// LoadAK loads a key that CreateAK made earlier. ErrForeignAK says that it is not this TPM's, or not any more: the caller makes a new one and
// registers again.
func (t *TPM) LoadAK(blob Blob) (AK, error) {
	key, err := parseAK(blob.Public)
	if err != nil {
		return AK{}, fmt.Errorf("load attestation key: %w: %w", ErrForeignAK, err)
	}
	ak := AK{blob: blob, key: key}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.load(ak); err != nil {
		return AK{}, explain("load attestation key", err)
	}
	return ak, nil
}

func parseAK(public []byte) (endorsement.AK, error) {
	key, failures, err := endorsement.ParseAK(public)
	if err != nil {
		return endorsement.AK{}, err
	}
	if len(failures) > 0 {
		return endorsement.AK{}, errors.New(failures[0].Detail)
	}
	return key, nil
}

func akTemplate(alg Algorithm) (tpm2.TPMTPublic, error) {
	area := tpm2.TPMTPublic{
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
		},
	}
	switch alg {
	case RSA2048, "":
		area.Type = tpm2.TPMAlgRSA
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048, Scheme: tpm2.TPMTRSAScheme{
			Scheme:  tpm2.TPMAlgRSASSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256}),
		}})
	case ECC256:
		area.Type = tpm2.TPMAlgECC
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256, Scheme: tpm2.TPMTECCScheme{
			Scheme:  tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
		}})
	default:
		return tpm2.TPMTPublic{}, fmt.Errorf("no attestation key of kind %q; known are %s, %s", alg, RSA2048, ECC256)
	}
	return area, nil
}

// withAK passes the loaded key to use. A TPM that was reset or resumed has forgotten it: then it is loaded anew and use is called again. The caller
// holds the lock.
func (t *TPM) withAK(ak AK, use func(handle tpm2.AuthHandle) error) error {
	if !ak.key.Valid() {
		return errors.New("no attestation key")
	}
	if !bytes.Equal(t.loaded.key.Name(), ak.key.Name()) {
		if err := t.load(ak); err != nil {
			return err
		}
	}
	err := use(t.akHandle())
	if errors.Is(err, tpm2.TPMRCReferenceH0) || errors.Is(err, tpm2.TPMRCHandle) {
		t.loaded = loadedAK{}
		if err := t.load(ak); err != nil {
			return err
		}
		return use(t.akHandle())
	}
	return err
}

func (t *TPM) akHandle() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: t.loaded.handle, Name: tpm2.TPM2BName{Buffer: t.loaded.key.Name()}, Auth: tpm2.PasswordAuth(nil)}
}

// load puts the key into a slot, in place of the one that was there.
func (t *TPM) load(ak AK) error {
	if err := t.unload(); err != nil {
		return err
	}
	return t.withEK(ak.blob.EK, func(ek tpm2.AuthHandle, _ []byte) error {
		rsp, err := tpm2.Load{
			ParentHandle: ek,
			InPrivate:    tpm2.TPM2BPrivate{Buffer: ak.blob.Private},
			InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](ak.blob.Public[2:]),
		}.Execute(t.device)
		if err != nil {
			return loadError(err)
		}
		t.loaded = loadedAK{key: ak.key, handle: rsp.ObjectHandle}
		return nil
	})
}

// loadError tells a blob that the TPM does not accept (an error about one of the two parameters) from a TPM that cannot load now.
func loadError(err error) error {
	var about tpm2.TPMFmt1Error
	if errors.As(err, &about) {
		if isParameter, _ := about.Parameter(); isParameter {
			return fmt.Errorf("%w: %w", ErrForeignAK, err)
		}
	}
	return err
}

// unload frees the slot of the attestation key, which a reset of the TPM may have done already.
func (t *TPM) unload() error {
	if !t.loaded.key.Valid() {
		return nil
	}
	handle := t.loaded.handle
	t.loaded = loadedAK{}
	if err := t.flush(handle); err != nil && !errors.Is(err, tpm2.TPMRCHandle) {
		return err
	}
	return nil
}

// ActivateCredential opens a credential that was made for this TPM's endorsement key and for ak, and returns its secret.
func (t *TPM) ActivateCredential(ak AK, credential endorsement.Credential) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var secret []byte
	err := t.withAK(ak, func(handle tpm2.AuthHandle) error {
		return t.withEK(ak.blob.EK, func(ek tpm2.AuthHandle, _ []byte) error {
			rsp, err := tpm2.ActivateCredential{
				ActivateHandle: handle,
				KeyHandle:      ek,
				CredentialBlob: tpm2.TPM2BIDObject{Buffer: credential.IDObject},
				Secret:         tpm2.TPM2BEncryptedSecret{Buffer: credential.Secret},
			}.Execute(t.device)
			if err == nil {
				secret = rsp.CertInfo.Buffer
			}
			return err
		})
	})
	return secret, explain("activate credential", err)
}

// Certification is the outcome of TPM2_Certify of an attestation key by itself: a TPMS_ATTEST and a TPMT_SIGNATURE, as endorsement.VerifyCertify takes them.
type Certification struct{ Attest, Signature []byte }

// Certify proves possession of ak for an exchange that qualifying names, of at most 32 bytes.
func (t *TPM) Certify(ak AK, qualifying []byte) (Certification, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var made Certification
	err := t.withAK(ak, func(handle tpm2.AuthHandle) error {
		rsp, err := tpm2.Certify{
			ObjectHandle:   handle,
			SignHandle:     handle,
			QualifyingData: tpm2.TPM2BData{Buffer: qualifying},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		}.Execute(t.device)
		if err == nil {
			made = Certification{Attest: rsp.CertifyInfo.Bytes(), Signature: tpm2.Marshal(rsp.Signature)}
		}
		return err
	})
	return made, explain("certify attestation key", err)
}

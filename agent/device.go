package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/tpm"
)

// bank is the PCR bank that is quoted.
const bank = attest.SHA256

// device is the TPM with this agent's keys: the endorsement key, and the attestation key that is its child.
type device struct {
	*tpm.TPM
	ek    endorsement.EK
	chain [][]byte // DER: the EK certificate and what the TPM keeps beside it
	ak    tpm.AK
	// hasAuth says that the configuration has a password of the endorsement hierarchy.
	hasAuth bool
}

// openDevice opens a TPM; endorsementAuth is the password of its endorsement hierarchy, or nil.
func openDevice(name string, endorsementAuth []byte) (*device, error) {
	opened, err := tpm.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w (key tpm)", err)
	}
	opened.SetEndorsementAuth(endorsementAuth)
	return &device{TPM: opened, hasAuth: len(endorsementAuth) > 0}, nil
}

// facts asks the TPM what the preflight wants to know. Whether there is a certificate is known once the endorsement key is derived, which
// takes some TPMs seconds.
func (d *device) facts() tpmFacts {
	info, err := d.Info()
	if err != nil {
		return tpmFacts{Err: err}
	}
	facts := tpmFacts{
		Name:    fmt.Sprintf("%s %s, firmware %#x", info.Manufacturer, info.Vendor, info.Firmware),
		Lockout: info.InLockout, Password: info.EndorsementPassword && !d.hasAuth, Certificate: len(d.chain) > 0,
	}
	if facts.Banks, err = d.Banks(); err != nil {
		return tpmFacts{Err: err}
	}
	return facts
}

// openEK derives the endorsement key and reads its certificates.
func (d *device) openEK(kind tpm.Algorithm) error {
	key, err := d.EK(kind)
	if errors.Is(err, tpm.ErrEndorsementAuth) {
		return fmt.Errorf("%w (key %s)", err, keyEndorsementAuth)
	}
	if err != nil {
		return err
	}
	d.chain = key.Chain
	d.ek, err = endorsement.ParseEK(key.Public)
	return err
}

// keptAK is the attestation key in the state directory.
type keptAK struct {
	Kind tpm.Algorithm `json:"kind"`
	Blob tpm.Blob      `json:"blob"`
}

// keyRequest says which keys to use, and where the attestation key is kept.
type keyRequest struct {
	kinds tpm.Kinds
	path  string
	log   *slog.Logger
}

// openKeys derives the endorsement key and loads the attestation key. A new one is made at the first start, when the configuration asks
// for another kind, and when the TPM does not take the old one any more.
func (d *device) openKeys(want keyRequest) error {
	if err := d.openEK(want.kinds.EK); err != nil {
		return err
	}
	why, err := d.loadAK(want)
	if err != nil || why == "" {
		return err
	}
	level := slog.LevelWarn
	if why == firstStart {
		level = slog.LevelInfo
	}
	want.log.Log(context.Background(), level, "making a new attestation key: it has to be registered, and perhaps approved", "reason", why)
	if d.ak, err = d.CreateAK(want.kinds); err != nil {
		return err
	}
	text, err := json.Marshal(keptAK{Kind: want.kinds.AK, Blob: d.ak.Blob()})
	if err != nil {
		return fmt.Errorf("keep attestation key: %w", err)
	}
	return durable.WriteFile(want.path, text, 0o600)
}

// firstStart is why an agent makes its first attestation key.
const firstStart = "there is none yet"

// loadAK loads the kept key, or says why there has to be a new one. A TPM that is in trouble is an error: the key may serve again.
func (d *device) loadAK(want keyRequest) (why string, err error) {
	text, err := readState(want.path)
	if errors.Is(err, fs.ErrNotExist) {
		return firstStart, nil
	}
	if err != nil {
		return "", err
	}
	var kept keptAK
	if err := json.Unmarshal(text, &kept); err != nil {
		return fmt.Sprintf("%s does not parse: %v", want.path, err), nil
	}
	if (tpm.Kinds{EK: kept.Blob.EK, AK: kept.Kind}) != want.kinds {
		return fmt.Sprintf("the old one is %s under %s, the configuration asks for %s under %s", kept.Kind, kept.Blob.EK, want.kinds.AK, want.kinds.EK), nil
	}
	d.ak, err = d.LoadAK(kept.Blob)
	if errors.Is(err, tpm.ErrForeignAK) {
		return err.Error(), nil
	}
	return "", err
}

// quote quotes PCRs and PCR 16, which holds the transport key.
func (d *device) quote(nonce []byte, selection pcr.Selection, transportKey []byte) (quote.Raw, error) {
	return d.Quote(tpm.QuoteRequest{AK: d.ak, Nonce: nonce, Selection: selection, TransportKey: transportKey})
}

// names returns what the AK's algorithms are called on the wire.
func (d *device) names() keyNames {
	scheme, _ := d.ak.Key().Scheme()
	return keyNames{encryption: d.ak.Key().KeyAlgorithm(), signing: scheme.String()}
}

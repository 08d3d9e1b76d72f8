package tpm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
)

// maxQuoteAttempts bounds how often a quote is repeated while others extend PCRs between the quote and the reading of the values; Keylime's agents
// try as often.
const maxQuoteAttempts = 5

// ErrUnsteady says that PCRs changed under every attempt to quote them.
var ErrUnsteady = errors.New("PCRs changed during the quote")

// QuoteRequest says what to quote.
type QuoteRequest struct {
	AK    AK
	Nonce []byte
	// Selection names the PCRs of one bank. PCR 16 joins them where TransportKey is set.
	Selection pcr.Selection
	// TransportKey is the PEM text of the key that the answer is to be bound to, the very bytes that the verifier will see: PCR 16 is reset and extended
	// with its hash before the quote. Nil leaves PCR 16 alone.
	TransportKey []byte
}

// Quote signs the values of PCRs and returns them with the signature. The values are those that were signed: a quote under which a PCR changed, by IMA or
// by another user of PCR 16, is made again, up to five times, then ErrUnsteady is returned.
func (t *TPM) Quote(request QuoteRequest) (quote.Raw, error) {
	if !request.Selection.Bank.Known() {
		return quote.Raw{}, fmt.Errorf("quote: %w %s", attest.ErrHash, request.Selection.Bank)
	}
	if request.TransportKey != nil {
		request.Selection = request.Selection.With(pcr.Debug)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for range maxQuoteAttempts {
		raw, err := t.quoteOnce(request)
		if errors.Is(err, ErrUnsteady) {
			continue
		}
		return raw, explain("quote", err)
	}
	return quote.Raw{}, fmt.Errorf("quote: %w in each of %d attempts", ErrUnsteady, maxQuoteAttempts)
}

func (t *TPM) quoteOnce(request QuoteRequest) (quote.Raw, error) {
	selection := request.Selection
	if request.TransportKey != nil {
		if err := t.bind(selection.Bank, request.TransportKey); err != nil {
			return quote.Raw{}, err
		}
	}
	raw := quote.Raw{Selections: []pcr.Selection{selection}}
	var signed *tpm2.TPMSAttest
	err := t.withAK(request.AK, func(handle tpm2.AuthHandle) error {
		rsp, err := tpm2.Quote{
			SignHandle:     handle,
			QualifyingData: tpm2.TPM2BData{Buffer: request.Nonce},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			PCRSelect:      pcrList(selection),
		}.Execute(t.device)
		if err != nil {
			return err
		}
		raw.Attest, raw.Signature = rsp.Quoted.Bytes(), tpm2.Marshal(rsp.Signature)
		signed, err = rsp.Quoted.Contents()
		return err
	})
	if err != nil {
		return quote.Raw{}, err
	}
	values, err := t.read(selection)
	if err != nil {
		return quote.Raw{}, err
	}
	info, err := signed.Attested.Quote()
	if err != nil {
		return quote.Raw{}, err
	}
	_, hash := request.AK.key.Scheme()
	if !bytes.Equal(values.Composite(hash).Bytes(), info.PCRDigest.Buffer) {
		return quote.Raw{}, ErrUnsteady
	}
	if request.TransportKey != nil && values.Digests[pcr.Debug] != bound(selection.Bank, request.TransportKey) {
		return quote.Raw{}, ErrUnsteady
	}
	for _, p := range selection.PCRs() {
		raw.Digests = append(raw.Digests, values.Digests[p].Bytes())
	}
	return raw, nil
}

// bind leaves in PCR 16 nothing but the hash of the transport key.
func (t *TPM) bind(bank attest.Hash, transportKey []byte) error {
	debug := tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr.Debug), Auth: tpm2.PasswordAuth(nil)}
	if _, err := (tpm2.PCRReset{PCRHandle: debug}).Execute(t.device); err != nil {
		return fmt.Errorf("reset PCR %d: %w", pcr.Debug, err)
	}
	digest := tpm2.TPMTHA{HashAlg: tpm2.TPMAlgID(bank), Digest: bank.Sum(transportKey).Bytes()}
	extend := tpm2.PCRExtend{PCRHandle: debug, Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{digest}}}
	if _, err := extend.Execute(t.device); err != nil {
		return fmt.Errorf("extend PCR %d: %w", pcr.Debug, err)
	}
	return nil
}

// bound is the value that bind leaves.
func bound(bank attest.Hash, transportKey []byte) attest.Digest {
	return pcr.Extend(pcr.Initial(bank, pcr.Debug), bank.Sum(transportKey).Bytes())
}

// ReadPCRs reads the values of PCRs. They are unsigned.
func (t *TPM) ReadPCRs(selection pcr.Selection) (pcr.Values, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	values, err := t.read(selection)
	return values, explain("read PCRs", err)
}

// read asks until it has all values: TPM2_PCR_Read returns eight at most.
func (t *TPM) read(selection pcr.Selection) (pcr.Values, error) {
	values := pcr.Values{Bank: selection.Bank, Digests: map[int]attest.Digest{}}
	for rest := selection; rest.Mask != 0; {
		rsp, err := tpm2.PCRRead{PCRSelectionIn: pcrList(rest)}.Execute(t.device)
		if err != nil {
			return pcr.Values{}, fmt.Errorf("read %s: %w", rest, err)
		}
		returned := returnedPCRs(rsp.PCRSelectionOut, rest)
		if len(returned) == 0 || len(returned) != len(rsp.PCRValues.Digests) {
			return pcr.Values{}, fmt.Errorf("read %s: %w: the TPM returned %d values", rest, ErrBank, len(rsp.PCRValues.Digests))
		}
		for i, p := range returned {
			digest, err := attest.NewDigest(selection.Bank, rsp.PCRValues.Digests[i].Buffer)
			if err != nil {
				return pcr.Values{}, fmt.Errorf("read PCR %d: %w", p, err)
			}
			values.Digests[p] = digest
			rest.Mask &^= 1 << p
		}
	}
	return values, nil
}

// returnedPCRs returns those of asked that an answer holds.
func returnedPCRs(list tpm2.TPMLPCRSelection, asked pcr.Selection) []int {
	var mask uint32
	for _, s := range list.PCRSelections {
		if attest.Hash(s.Hash) != asked.Bank {
			continue
		}
		for i, octet := range s.PCRSelect {
			if i < pcr.Count/8 {
				mask |= uint32(octet) << (8 * i)
			}
		}
	}
	return pcr.Selection{Bank: asked.Bank, Mask: mask & asked.Mask}.PCRs()
}

func pcrList(selection pcr.Selection) tpm2.TPMLPCRSelection {
	octets := []byte{byte(selection.Mask), byte(selection.Mask >> 8), byte(selection.Mask >> 16)}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgID(selection.Bank), PCRSelect: octets}}}
}

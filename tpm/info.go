package tpm

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/quote"
)

// Info is what a TPM says of itself, for people and preflight checks.
type Info struct {
	// Manufacturer is the vendor's id in the TCG registry ("IFX", "IBM"), Vendor the vendor's own text.
	Manufacturer string `json:"manufacturer"`
	Vendor       string `json:"vendor"`
	// Firmware is the version as the vendor counts it; quotes carry it too.
	Firmware uint64 `json:"firmware"`
	// InLockout says that keys under dictionary-attack protection are refused for now. Assay's attestation key is not under it.
	InLockout bool `json:"inLockout"`
	// EndorsementPassword says that the endorsement hierarchy has a password, which SetEndorsementAuth takes.
	EndorsementPassword bool `json:"endorsementPassword"`
}

// Bits of TPM_PT_PERMANENT (TPM 2.0 Part 2, section 8.6).
const (
	endorsementAuthSet = 1 << 1
	inLockout          = 1 << 9
)

// Info reads what the TPM says of itself.
func (t *TPM) Info() (Info, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	values := map[tpm2.TPMPT]uint32{}
	for _, p := range []tpm2.TPMPT{
		tpm2.TPMPTManufacturer, tpm2.TPMPTVendorString1, tpm2.TPMPTVendorString2, tpm2.TPMPTVendorString3, tpm2.TPMPTVendorString4,
		tpm2.TPMPTFirmwareVersion1, tpm2.TPMPTFirmwareVersion2, tpm2.TPMPTPermanent,
	} {
		value, err := t.property(p)
		if err != nil {
			return Info{}, explain("read TPM properties", err)
		}
		values[p] = value
	}
	return Info{
		Manufacturer: ascii(values[tpm2.TPMPTManufacturer]),
		Vendor: ascii(values[tpm2.TPMPTVendorString1], values[tpm2.TPMPTVendorString2],
			values[tpm2.TPMPTVendorString3], values[tpm2.TPMPTVendorString4]),
		Firmware:            uint64(values[tpm2.TPMPTFirmwareVersion1])<<32 | uint64(values[tpm2.TPMPTFirmwareVersion2]),
		InLockout:           values[tpm2.TPMPTPermanent]&inLockout != 0,
		EndorsementPassword: values[tpm2.TPMPTPermanent]&endorsementAuthSet != 0,
	}, nil
}

// ascii reads words of four characters, padded with zeros or spaces.
func ascii(words ...uint32) string {
	var text []byte
	for _, word := range words {
		text = binary.BigEndian.AppendUint32(text, word)
	}
	return strings.TrimSpace(strings.ReplaceAll(string(text), "\x00", ""))
}

func (t *TPM) property(p tpm2.TPMPT) (uint32, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(p), PropertyCount: 1}.Execute(t.device)
	if err != nil {
		return 0, fmt.Errorf("property %#x: %w", uint32(p), err)
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return 0, fmt.Errorf("property %#x: %w", uint32(p), err)
	}
	if len(list.TPMProperty) != 1 || list.TPMProperty[0].Property != p {
		return 0, fmt.Errorf("property %#x: the TPM does not have it", uint32(p))
	}
	return list.TPMProperty[0].Value, nil
}

// Banks returns the active PCR banks among those that Assay knows, weakest first.
func (t *TPM) Banks() ([]attest.Hash, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(t.device)
	if err != nil {
		return nil, explain("read PCR banks", err)
	}
	assigned, err := rsp.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, explain("read PCR banks", err)
	}
	active := map[attest.Hash]bool{}
	for _, s := range assigned.PCRSelections {
		for _, octet := range s.PCRSelect {
			active[attest.Hash(s.Hash)] = active[attest.Hash(s.Hash)] || octet != 0
		}
	}
	var banks []attest.Hash
	for _, h := range attest.Hashes() {
		if active[h] {
			banks = append(banks, h)
		}
	}
	return banks, nil
}

// ReadClock returns the TPM's clock and reset counters. It is unsigned; a quote carries the same, signed.
func (t *TPM) ReadClock() (quote.Clock, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rsp, err := tpm2.ReadClock{}.Execute(t.device)
	if err != nil {
		return quote.Clock{}, explain("read TPM clock", err)
	}
	c := rsp.CurrentTime.ClockInfo
	return quote.Clock{Clock: c.Clock, ResetCount: c.ResetCount, RestartCount: c.RestartCount, Safe: c.Safe}, nil
}

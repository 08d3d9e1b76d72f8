package tpm

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// The NV indices that may hold intermediates of the EK certificates (EK Credential Profile, section 2.2.1.5.2).
const (
	chainFirst = 0x01c00100
	chainLast  = 0x01c001ff
)

// nvChunk is how much is read from NV at once: every TPM takes it.
const nvChunk = 512

// EK is an endorsement key as its TPM presents it.
type EK struct {
	// Public is the TPM2B_PUBLIC.
	Public []byte
	// Chain holds DER: the EK certificate, then what certificates the TPM keeps beside it. It is empty where the TPM has no certificate for this key.
	Chain [][]byte
}

// EK derives an endorsement key from the TCG's template and reads its certificates from NV. Deriving an RSA key takes a discrete TPM seconds.
func (t *TPM) EK(alg Algorithm) (EK, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kind, err := kindOf(alg)
	if err != nil {
		return EK{}, fmt.Errorf("derive endorsement key: %w", err)
	}
	var ek EK
	err = t.withEK(alg, func(_ tpm2.AuthHandle, public []byte) error {
		ek.Public = public
		return nil
	})
	if err != nil {
		return EK{}, explain("derive endorsement key "+string(alg), err)
	}
	if ek.Chain, err = t.certificates(kind.certificate); err != nil {
		return EK{}, explain("read EK certificate "+string(alg), err)
	}
	return ek, nil
}

// withEK derives an endorsement key, passes it to use with a session that authorises one command, and flushes it. The caller holds the lock.
func (t *TPM) withEK(alg Algorithm, use func(ek tpm2.AuthHandle, public []byte) error) (err error) {
	kind, err := kindOf(alg)
	if err != nil {
		return err
	}
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: t.endorsement(),
		InPublic:      tpm2.New2B(kind.template()),
	}.Execute(t.device)
	if errors.Is(err, tpm2.TPMRCBadAuth) {
		return fmt.Errorf("create primary: %w than %s: %w", ErrEndorsementAuth, t.given(), err)
	}
	if err != nil {
		return fmt.Errorf("create primary: %w", err)
	}
	defer func() { err = errors.Join(err, t.flush(rsp.ObjectHandle)) }()
	return use(tpm2.AuthHandle{Handle: rsp.ObjectHandle, Name: rsp.Name, Auth: kind.session(t.endorsement())}, tpm2.Marshal(rsp.OutPublic))
}

// given says which password was tried, never what it is.
func (t *TPM) given() string {
	if len(t.endorsementAuth) == 0 {
		return "the empty one"
	}
	return "the one that was given"
}

// certificates reads a certificate and, where there is one, the intermediates that the TPM keeps.
func (t *TPM) certificates(index tpm2.TPMHandle) ([][]byte, error) {
	stored, err := t.indices(index, index)
	if err != nil || len(stored) == 0 {
		return nil, err
	}
	leaf, err := t.readNV(index)
	if err != nil {
		return nil, err
	}
	chain := split(leaf)
	if len(chain) == 0 {
		return nil, fmt.Errorf("NV index %#x holds no DER", uint32(index))
	}
	rest, err := t.indices(chainFirst, chainLast)
	if err != nil {
		return nil, err
	}
	var area []byte // one certificate may span several indices
	for _, index := range rest {
		part, err := t.readNV(index)
		if err != nil {
			return nil, err
		}
		area = append(area, part...)
	}
	return append(chain[:1], split(area)...), nil
}

// indices returns the defined NV indices between first and last.
func (t *TPM) indices(first, last tpm2.TPMHandle) ([]tpm2.TPMHandle, error) {
	var found []tpm2.TPMHandle
	for next := first; next <= last; {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(next), PropertyCount: uint32(last-next) + 1}.Execute(t.device)
		if err != nil {
			return nil, fmt.Errorf("list NV indices: %w", err)
		}
		list, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			return nil, fmt.Errorf("list NV indices: %w", err)
		}
		for _, handle := range list.Handle {
			if handle >= next && handle <= last {
				found = append(found, handle)
				next = handle + 1
			}
		}
		if len(list.Handle) == 0 || !rsp.MoreData || list.Handle[len(list.Handle)-1] >= last {
			return found, nil
		}
	}
	return found, nil
}

func (t *TPM) readNV(index tpm2.TPMHandle) ([]byte, error) {
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t.device)
	if err != nil {
		return nil, fmt.Errorf("NV index %#x: %w", uint32(index), err)
	}
	area, err := public.NVPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("NV index %#x: %w", uint32(index), err)
	}
	auth := tpm2.AuthHandle{Handle: index, Name: public.NVName, Auth: tpm2.PasswordAuth(nil)}
	if !area.Attributes.AuthRead {
		auth = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	}
	data := make([]byte, 0, area.DataSize)
	for len(data) < int(area.DataSize) {
		rsp, err := tpm2.NVRead{
			AuthHandle: auth,
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Size:       min(nvChunk, area.DataSize-uint16(len(data))),
			Offset:     uint16(len(data)),
		}.Execute(t.device)
		if err != nil {
			return nil, fmt.Errorf("NV index %#x at offset %d: %w", uint32(index), len(data), err)
		}
		if len(rsp.Data.Buffer) == 0 {
			return nil, fmt.Errorf("NV index %#x at offset %d: the TPM returned nothing", uint32(index), len(data))
		}
		data = append(data, rsp.Data.Buffer...)
	}
	return data, nil
}

// split cuts concatenated DER sequences apart and drops the padding after the last: vendors define NV indices larger than what they store.
func split(area []byte) [][]byte {
	const sequence, longForm2 = 0x30, 0x82 // every certificate is a SEQUENCE of 256 to 65535 bytes
	var found [][]byte
	for len(area) >= 4 && area[0] == sequence && area[1] == longForm2 {
		size := 4 + int(area[2])<<8 + int(area[3])
		if size > len(area) {
			break
		}
		found = append(found, area[:size:size])
		area = area[size:]
	}
	return found
}

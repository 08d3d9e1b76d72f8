package quotetest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/binary"
	"maps"
	"math/big"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
)

// Options say what a quote holds.
type Options struct {
	Nonce []byte
	// Values are the PCRs of the simulated TPM. Selection chooses among them; a zero one takes all.
	Values    pcr.Values
	Selection pcr.Selection
	Clock     quote.Clock
	// TransportKey, when not nil, is a PEM text that PCR 16 is made to bind; PCR 16 is then added, as Keylime's agents do.
	TransportKey []byte
	// Edit, when not nil, changes the structure before it is signed: what a TPM would not sign.
	Edit func(*Attest)
}

// Attest is a TPMS_ATTEST of type quote, open to change.
type Attest struct {
	Magic      uint32
	Type       uint16
	Signer     []byte // qualified name
	ExtraData  []byte
	Clock      quote.Clock
	Firmware   uint64
	Selections []pcr.Selection
	Digest     []byte
}

const (
	generated     = 0xff544347
	attestQuote   = 0x8018
	attestCertify = 0x8017
	firmware      = 0x2019102300163636 // what swtpm reports
)

// Bytes encodes the structure (TPM 2.0 Part 2, 10.12.8).
func (a Attest) Bytes() []byte {
	out := a.head()
	out = binary.BigEndian.AppendUint32(out, uint32(len(a.Selections)))
	for _, s := range a.Selections {
		out = binary.BigEndian.AppendUint16(out, uint16(s.Bank))
		out = append(out, 3, byte(s.Mask), byte(s.Mask>>8), byte(s.Mask>>16))
	}
	return appendSized(out, a.Digest)
}

func (a Attest) head() []byte {
	out := binary.BigEndian.AppendUint32(nil, a.Magic)
	out = binary.BigEndian.AppendUint16(out, a.Type)
	out = appendSized(out, a.Signer)
	out = appendSized(out, a.ExtraData)
	out = binary.BigEndian.AppendUint64(out, a.Clock.Clock)
	out = binary.BigEndian.AppendUint32(out, a.Clock.ResetCount)
	out = binary.BigEndian.AppendUint32(out, a.Clock.RestartCount)
	safe := byte(0)
	if a.Clock.Safe {
		safe = 1
	}
	out = append(out, safe)
	return binary.BigEndian.AppendUint64(out, a.Firmware)
}

// Quote signs the selected values, as TPM2_Quote does.
func (s *Signer) Quote(o Options) quote.Raw {
	s.t.Helper()
	values := s.choose(o)
	selection := values.Selection()
	_, hash := s.Scheme()
	a := Attest{
		Magic: generated, Type: attestQuote, Signer: s.qualifiedName(), ExtraData: o.Nonce, Clock: o.Clock, Firmware: firmware,
		Selections: []pcr.Selection{selection}, Digest: values.Composite(hash).Bytes(),
	}
	if o.Edit != nil {
		o.Edit(&a)
	}
	raw := quote.Raw{Attest: a.Bytes(), Selections: []pcr.Selection{selection}}
	raw.Signature = s.Sign(raw.Attest)
	for _, p := range selection.PCRs() {
		raw.Digests = append(raw.Digests, values.Digests[p].Bytes())
	}
	return raw
}

func (s *Signer) choose(o Options) pcr.Values {
	s.t.Helper()
	chosen := pcr.Values{Bank: o.Values.Bank, Digests: make(map[int]attest.Digest, pcr.Count)}
	if o.Selection == (pcr.Selection{}) {
		maps.Copy(chosen.Digests, o.Values.Digests)
	}
	for _, p := range o.Selection.PCRs() {
		value, ok := o.Values.Get(p)
		if !ok {
			value = pcr.Initial(o.Values.Bank, p)
		}
		chosen.Digests[p] = value
	}
	if o.TransportKey != nil {
		chosen.Digests[pcr.Debug] = pcr.Extend(pcr.Initial(chosen.Bank, pcr.Debug), chosen.Bank.Sum(o.TransportKey).Bytes())
	}
	return chosen
}

// Certify returns what TPM2_Certify of the key by itself returns for qualifying data: TPMS_ATTEST and TPMT_SIGNATURE.
func (s *Signer) Certify(qualifying []byte, clock quote.Clock) (attestation, signature []byte) {
	s.t.Helper()
	a := Attest{Magic: generated, Type: attestCertify, Signer: s.qualifiedName(), ExtraData: qualifying, Clock: clock, Firmware: firmware}
	out := appendSized(a.head(), s.ak.Name())
	out = appendSized(out, s.qualifiedName())
	return out, s.Sign(out)
}

// qualifiedName is the name that a TPM gives to a primary key of the endorsement hierarchy: H(handle || name).
func (s *Signer) qualifiedName() []byte {
	const endorsementHierarchy = 0x4000000b
	handle := binary.BigEndian.AppendUint32(nil, endorsementHierarchy)
	return append([]byte{0, byte(attest.SHA256)}, attest.SHA256.Sum(handle, s.ak.Name()).Bytes()...)
}

// Sign returns the TPMT_SIGNATURE of the key's scheme over message.
func (s *Signer) Sign(message []byte) []byte {
	s.t.Helper()
	scheme, hash := s.Scheme()
	return s.SignWith(scheme, hash, message)
}

// SignWith signs with another scheme or hash than the key's own, as no restricted key of a TPM would.
func (s *Signer) SignWith(scheme uint16, hash attest.Hash, message []byte) []byte {
	s.t.Helper()
	var options crypto.SignerOpts = hash.Crypto()
	if scheme == algRSAPSS {
		options = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash.Crypto()}
	}
	signed, err := s.key.Sign(rand.Reader, hash.Sum(message).Bytes(), options)
	if err != nil {
		s.t.Fatalf("quotetest: sign: %v", err)
	}
	out := binary.BigEndian.AppendUint16(nil, scheme)
	out = binary.BigEndian.AppendUint16(out, uint16(hash))
	public, ok := s.key.Public().(*ecdsa.PublicKey)
	if !ok {
		return appendSized(out, signed)
	}
	var point struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(signed, &point); err != nil {
		s.t.Fatalf("quotetest: take the signature apart: %v", err)
	}
	size := (public.Curve.Params().BitSize + 7) / 8
	out = appendSized(out, point.R.FillBytes(make([]byte, size)))
	return appendSized(out, point.S.FillBytes(make([]byte, size)))
}

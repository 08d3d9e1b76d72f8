package tpm

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/internal/swtpm"
)

const transportKey = "-----BEGIN PUBLIC KEY-----\nthe bytes count, not the key\n-----END PUBLIC KEY-----\n"

func quoted(t *testing.T, device *TPM, request QuoteRequest) quote.Quote {
	t.Helper()
	raw, err := device.Quote(request)
	if err != nil {
		t.Fatal(err)
	}
	q, err := quote.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func expectFailure(t *testing.T, q quote.Quote, want quote.Expected, id attest.FailureID) {
	t.Helper()
	verified, failures := quote.Verify(q, want)
	if len(failures) != 1 || failures[0].ID != id || verified.Valid() {
		t.Errorf("valid %v, %+v, expected %s alone", verified.Valid(), failures, id)
	}
}

func TestQuoteVerifies(t *testing.T) {
	device := newTPM(t)
	for _, kinds := range []Kinds{{}, {EK: ECC256, AK: ECC256}, {EK: ECC384, AK: ECC256}} {
		ak := newAK(t, device, kinds)
		for _, bank := range attest.Hashes() {
			request := QuoteRequest{AK: ak, Nonce: []byte("20 characters, random"), Selection: pcr.Select(bank, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 23), TransportKey: []byte(transportKey)}
			want := quote.Expected{AK: ak.Key(), Nonce: request.Nonce, Selection: request.Selection, TransportKey: request.TransportKey}
			q := quoted(t, device, request)
			verified, failures := quote.Verify(q, want)
			if failures != nil || !verified.Valid() {
				t.Fatalf("%+v %s: %v", kinds, bank, failures)
			}
			if child := childOf(t, device, kinds, ak); !bytes.Equal(child, verified.QualifiedSigner()) {
				t.Errorf("%+v: the quote is signed by %x, the child of the EK is %x", kinds, verified.QualifiedSigner(), child)
			}
			read, err := device.ReadPCRs(request.Selection.With(pcr.Debug))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(read, verified.Values(), cmp.Comparer(func(a, b attest.Digest) bool { return a == b })); diff != "" {
				t.Errorf("%s: read (-) and quoted (+) values differ:\n%s", bank, diff)
			}
		}
	}
}

// childOf is the qualified name that the AK has as a child of the TPM's EK.
func childOf(t *testing.T, device *TPM, kinds Kinds, ak AK) []byte {
	t.Helper()
	if kinds.EK == "" {
		kinds.EK = RSA2048
	}
	key, err := device.EK(kinds.EK)
	if err != nil {
		t.Fatal(err)
	}
	ek, err := endorsement.ParseEK(key.Public)
	if err != nil {
		t.Fatal(err)
	}
	return ek.QualifiedChild(ak.Key())
}

// Each row changes one thing of an exchange that passes TestQuoteVerifies.
func TestQuoteRefused(t *testing.T) {
	device := newTPM(t)
	ak, other := newAK(t, device, Kinds{AK: ECC256}), newAK(t, device, Kinds{AK: ECC256})
	request := QuoteRequest{AK: ak, Nonce: []byte("nonce of this round"), Selection: pcr.Select(attest.SHA256, 0, 10), TransportKey: []byte(transportKey)}
	q := quoted(t, device, request)
	for _, row := range []struct {
		id     attest.FailureID
		change func(*quote.Expected)
	}{
		{attest.NonceMismatch, func(want *quote.Expected) { want.Nonce = []byte("nonce of the last round") }},
		{attest.QuoteSignatureInvalid, func(want *quote.Expected) { want.AK = other.Key() }},
		{attest.BankMismatch, func(want *quote.Expected) { want.Selection.Bank = attest.SHA384 }},
		{attest.TransportKeyMismatch, func(want *quote.Expected) { want.TransportKey = []byte(transportKey + "\n") }},
		{attest.PcrMissing, func(want *quote.Expected) { want.Selection = want.Selection.With(7) }},
	} {
		want := quote.Expected{AK: ak.Key(), Nonce: request.Nonce, Selection: request.Selection, TransportKey: request.TransportKey}
		row.change(&want)
		expectFailure(t, q, want, row.id)
	}
}

// The identity quote of Keylime's agents holds PCR 16 and nothing else.
func TestQuoteIdentity(t *testing.T) {
	device := newTPM(t)
	ak := newAK(t, device, Kinds{AK: ECC256})
	request := QuoteRequest{AK: ak, Nonce: []byte("nonce"), Selection: pcr.Select(attest.SHA256), TransportKey: []byte(transportKey)}
	verified, failures := quote.Verify(quoted(t, device, request), quote.Expected{AK: ak.Key(), Nonce: request.Nonce, Selection: request.Selection, TransportKey: request.TransportKey})
	if failures != nil || verified.Selection() != pcr.Select(attest.SHA256, 16) {
		t.Errorf("%s %v", verified.Selection(), failures)
	}
}

// A kernel extends PCRs whenever it likes: a quote whose values moved is made again, and not for ever.
func TestQuoteUnderExtends(t *testing.T) {
	for _, row := range []struct {
		name   string
		pcr    int
		code   tpm2.TPMCC // after which command somebody extends the PCR
		times  int
		refuse bool
	}{
		{"between quote and read", 10, tpm2.TPMCCQuote, maxQuoteAttempts - 1, false},
		{"PCR 16 before the quote", 16, tpm2.TPMCCPCRExtend, maxQuoteAttempts - 1, false},
		{"for ever", 10, tpm2.TPMCCQuote, maxQuoteAttempts, true},
		{"PCR 16 for ever", 16, tpm2.TPMCCPCRExtend, maxQuoteAttempts, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			device := newTPM(t)
			ak := newAK(t, device, Kinds{AK: ECC256})
			plain, left := device.device, row.times
			device.device = &meddler{TPMCloser: plain, after: func(code uint32) {
				if tpm2.TPMCC(code) != row.code || left == 0 {
					return
				}
				left--
				digest := tpm2.TPMTHA{HashAlg: tpm2.TPMAlgSHA256, Digest: bytes.Repeat([]byte{byte(left)}, 32)}
				extend := tpm2.PCRExtend{
					PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(row.pcr), Auth: tpm2.PasswordAuth(nil)},
					Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{digest}},
				}
				if _, err := extend.Execute(plain); err != nil {
					t.Error(err)
				}
			}}
			request := QuoteRequest{AK: ak, Nonce: []byte("nonce"), Selection: pcr.Select(attest.SHA256, 10), TransportKey: []byte(transportKey)}
			if row.refuse {
				if _, err := device.Quote(request); !errors.Is(err, ErrUnsteady) {
					t.Errorf("%v, expected ErrUnsteady", err)
				}
				return
			}
			want := quote.Expected{AK: ak.Key(), Nonce: request.Nonce, Selection: request.Selection, TransportKey: request.TransportKey}
			if _, failures := quote.Verify(quoted(t, device, request), want); failures != nil || left != 0 {
				t.Errorf("%v, %d extends did not happen", failures, left)
			}
		})
	}
}

// What the trust model's clock rule says, seen through quotes of a key that the resets do not hurt.
func TestQuoteAcrossResets(t *testing.T) {
	e := emulator(t, manufactured(t))
	device := opened(t, e)
	ak := newAK(t, device, Kinds{})
	request := QuoteRequest{AK: ak, Nonce: []byte("nonce"), Selection: pcr.Select(attest.SHA256, 10)}
	var last *quote.Clock
	next := func(want quote.Continuity) {
		t.Helper()
		q := quoted(t, device, request)
		verified, failures := quote.Verify(q, quote.Expected{AK: ak.Key(), Nonce: request.Nonce, Selection: request.Selection, Last: last})
		if failures != nil || verified.Continuity() != want {
			t.Errorf("%s %v, expected %s", verified.Continuity(), failures, want)
		}
		clock := verified.Clock()
		last = &clock
	}
	next(quote.FirstSeen)
	next(quote.SameBoot)
	for _, row := range []struct {
		reset swtpm.Reset
		want  quote.Continuity
	}{
		{swtpm.Reboot, quote.NewBoot}, {swtpm.Resume, quote.Resumed}, {swtpm.Restart, quote.Resumed}, {swtpm.PowerCut, quote.NewBoot}, {swtpm.Reboot, quote.NewBoot},
	} {
		if err := e.Cycle(t.Context(), row.reset); err != nil {
			t.Fatal(err)
		}
		next(row.want)
		next(quote.SameBoot)
	}
}

// Power cuts count against keys under dictionary-attack protection; ours are not, so a node that loses power again and again still attests.
func TestPowerCutsDoNotLock(t *testing.T) {
	e := emulator(t, manufactured(t))
	device := opened(t, e)
	ak := newAK(t, device, Kinds{EK: ECC384, AK: ECC256})
	for range 6 {
		quoted(t, device, QuoteRequest{AK: ak, Nonce: []byte("nonce"), Selection: pcr.Select(attest.SHA256, 10)})
		certified(t, device, ak)
		if err := e.Cycle(t.Context(), swtpm.PowerCut); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := device.Info(); err != nil || info.InLockout {
		t.Errorf("%+v %v, expected no lockout", info, err)
	}
}

func TestQuoteOfInactiveBank(t *testing.T) {
	dir := shortDir(t)
	manufactured(t) // skips where there is no emulator
	if err := swtpm.Manufacture(t.Context(), swtpm.Options{StateDir: dir, CADir: dir + "/ca", Banks: []string{"sha256"}}); err != nil {
		t.Fatal(err)
	}
	device := opened(t, emulator(t, dir))
	banks, err := device.Banks()
	if diff := cmp.Diff([]attest.Hash{attest.SHA256}, banks); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	ak := newAK(t, device, Kinds{AK: ECC256})
	for bank, want := range map[attest.Hash]error{attest.SHA384: ErrBank, attest.SHA256: nil, 0x12: attest.ErrHash} {
		if _, err := device.Quote(QuoteRequest{AK: ak, Nonce: []byte("nonce"), Selection: pcr.Select(bank, 10)}); !errors.Is(err, want) {
			t.Errorf("%s: %v, expected %v", bank, err, want)
		}
	}
	if _, err := device.ReadPCRs(pcr.Select(attest.SHA1, 10)); !errors.Is(err, ErrBank) {
		t.Errorf("%v, expected ErrBank", err)
	}
}

// TPM2_PCR_Read returns eight values at most.
func TestReadAllPCRs(t *testing.T) {
	device := newTPM(t)
	all := pcr.Selection{Bank: attest.SHA512, Mask: 1<<pcr.Count - 1}
	values, err := device.ReadPCRs(all)
	if err != nil || values.Selection() != all {
		t.Fatalf("%s %v", values.Selection(), err)
	}
	for p, value := range values.Digests {
		if value != pcr.Initial(attest.SHA512, p) {
			t.Errorf("PCR %d is %s after a reset", p, value)
		}
	}
}

package quote_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/evidence/quote/quotetest"
)

const otherPEM = "-----BEGIN PUBLIC KEY-----\nb3RoZXI=\n-----END PUBLIC KEY-----\n"
const agentPEM = "-----BEGIN PUBLIC KEY-----\nYWdlbnQ=\n-----END PUBLIC KEY-----\n"

// round is a round that passes; each negative test changes one thing of it.
type round struct {
	signer  *quotetest.Signer
	options quotetest.Options
	want    quote.Expected
	// sent changes what the TPM made, on the agent's way to the verifier.
	sent func(*quote.Raw)
}

// newRound asks for PCR 0, 7 and 10 of a TPM whose values are all different, and for the binding of a transport key.
func newRound(t testing.TB, kind quotetest.Kind) *round {
	signer := quotetest.NewSigner(t, kind)
	asked := pcr.Select(attest.SHA256, 0, 7, 10)
	last := quote.Clock{Clock: 1_000_000, ResetCount: 3, RestartCount: 1, Safe: true}
	return &round{
		signer: signer,
		options: quotetest.Options{
			Nonce: []byte("a nonce of this round"), Values: allDifferent(attest.SHA256), Selection: asked, TransportKey: []byte(agentPEM),
			Clock: quote.Clock{Clock: 1_060_000, ResetCount: 3, RestartCount: 1, Safe: true},
		},
		want: quote.Expected{
			AK: signer.AK(), Nonce: []byte("a nonce of this round"), Selection: asked, Last: &last,
			TransportKey: []byte(agentPEM), TransportKnown: []byte(agentPEM),
		},
		sent: func(*quote.Raw) {},
	}
}

func allDifferent(bank attest.Hash) pcr.Values {
	values := pcr.Values{Bank: bank, Digests: map[int]attest.Digest{}}
	for p := range pcr.Count {
		values.Digests[p] = bank.Sum(fmt.Appendf(nil, "value of PCR %d", p))
	}
	return values
}

func (r *round) verify(t testing.TB) (quote.Verified, []attest.Failure) {
	t.Helper()
	raw := r.signer.Quote(r.options)
	r.sent(&raw)
	parsed, err := quote.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return quote.Verify(parsed, r.want)
}

func TestVerifyAcceptsEveryKindOfKey(t *testing.T) {
	kinds := map[string]quotetest.Kind{
		"RSASSA": quotetest.RSASSA2048, "RSAPSS": quotetest.RSAPSS2048, "ECDSA P-256": quotetest.ECDSAP256, "ECDSA P-384": quotetest.ECDSAP384,
	}
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			r := newRound(t, kind)
			verified, failures := r.verify(t)
			if len(failures) > 0 || !verified.Valid() {
				t.Fatalf("valid %t, failures %v", verified.Valid(), failures)
			}
			r.signer = quotetest.NewSigner(t, kind)
			if _, failures := r.verify(t); !failedOnly(failures, attest.QuoteSignatureInvalid) {
				t.Errorf("the same quote of another AK: %v", failures)
			}
		})
	}
}

func TestVerifiedTellsWhatWasSigned(t *testing.T) {
	r := newRound(t, quotetest.ECDSAP256)
	verified, failures := r.verify(t)
	if len(failures) > 0 {
		t.Fatal(failures)
	}
	if diff := cmp.Diff(r.options.Clock, verified.Clock()); diff != "" {
		t.Errorf("clock (-want +got):\n%s", diff)
	}
	if got, want := verified.Selection(), pcr.Select(attest.SHA256, 0, 7, 10, 16); got != want {
		t.Errorf("selection %s, want %s", got, want)
	}
	if got, ok := verified.Value(7); !ok || got != r.options.Values.Digests[7] {
		t.Errorf("PCR 7 is %s, %t", got, ok)
	}
	if _, ok := verified.Value(8); ok {
		t.Error("PCR 8 was not quoted and has a value")
	}
	if got := verified.Continuity(); got != quote.SameBoot {
		t.Errorf("continuity %s", got)
	}
	if !bytes.Equal(verified.AKName(), r.signer.AK().Name()) {
		t.Errorf("AK name %x", verified.AKName())
	}
	if signer := verified.QualifiedSigner(); len(signer) != 34 || bytes.Equal(signer, verified.AKName()) {
		t.Errorf("qualified signer %x", signer)
	}
	if verified.Firmware() == 0 || verified.Digest().Hash() != attest.SHA256 {
		t.Errorf("firmware %x, digest %s", verified.Firmware(), verified.Digest())
	}
	verified.Values().Digests[7] = attest.SHA256.Sum([]byte("mine"))
	if got, _ := verified.Value(7); got != r.options.Values.Digests[7] {
		t.Error("a caller changed a verified value")
	}
}

// Each row is one fault in a round that otherwise passes.
func TestVerifyRefuses(t *testing.T) {
	tests := map[string]struct {
		fault func(*round)
		want  attest.FailureID
	}{
		"stale nonce":     {func(r *round) { r.options.Nonce = []byte("a nonce of an old round") }, attest.NonceMismatch},
		"empty nonce":     {func(r *round) { r.options.Nonce, r.want.Nonce = nil, nil }, attest.NonceMismatch},
		"nonce cut short": {func(r *round) { r.options.Nonce = r.want.Nonce[:5] }, attest.NonceMismatch},
		"no AK":           {func(r *round) { r.want.AK = endorsement.AK{} }, attest.AkUnknown},
		"signature changed": {func(r *round) {
			r.sent = func(raw *quote.Raw) { raw.Signature[len(raw.Signature)-1] ^= 1 }
		}, attest.QuoteSignatureInvalid},
		"signature with a byte after it": {func(r *round) {
			r.sent = func(raw *quote.Raw) { raw.Signature = append(raw.Signature, 0) }
		}, attest.QuoteMalformed},
		"signature cut short": {func(r *round) {
			r.sent = func(raw *quote.Raw) { raw.Signature = raw.Signature[:len(raw.Signature)-1] }
		}, attest.QuoteMalformed},
		"signed over SHA-1": {func(r *round) {
			r.sent = func(raw *quote.Raw) { raw.Signature = r.signer.SignWith(0x0018, attest.SHA1, raw.Attest) }
		}, attest.QuoteSignatureInvalid},
		"signed over a stronger hash than the key's scheme": {func(r *round) {
			r.sent = func(raw *quote.Raw) { raw.Signature = r.signer.SignWith(0x0018, attest.SHA384, raw.Attest) }
		}, attest.QuoteSignatureInvalid},
		"omitted PCR":                {func(r *round) { r.options.Selection = pcr.Select(attest.SHA256, 0, 7) }, attest.PcrMissing},
		"extra PCR":                  {func(r *round) { r.options.Selection = pcr.Select(attest.SHA256, 0, 7, 10, 11) }, attest.PcrUnexpected},
		"value changed":              {changeValue, attest.PcrDigestMismatch},
		"values swapped":             {swapValues, attest.PcrDigestMismatch},
		"composite of another quote": {func(r *round) { r.options.Edit = func(a *quotetest.Attest) { a.Digest[0] ^= 1 } }, attest.PcrDigestMismatch},
		"composite cut short":        {func(r *round) { r.options.Edit = func(a *quotetest.Attest) { a.Digest = a.Digest[:31] } }, attest.PcrDigestMismatch},
		"relabelled selection":       {relabel, attest.SelectionMismatch},
		"no selection": {func(r *round) {
			r.options.Edit = func(a *quotetest.Attest) { a.Selections = nil }
		}, attest.BankMismatch},
		"second, empty selection": {func(r *round) {
			r.options.Edit = func(a *quotetest.Attest) { a.Selections = append(a.Selections, pcr.Selection{Bank: attest.SHA1}) }
		}, attest.BankMismatch},
		"other bank": {func(r *round) {
			r.options.Values = allDifferent(attest.SHA384)
			r.options.Selection.Bank = attest.SHA384
		}, attest.BankMismatch},
		"transport key not bound":               {func(r *round) { r.want.TransportKey, r.want.TransportKnown = []byte(otherPEM), nil }, attest.TransportKeyMismatch},
		"transport key of another line ending":  {func(r *round) { r.want.TransportKey, r.want.TransportKnown = []byte(agentPEM[:len(agentPEM)-1]), nil }, attest.TransportKeyMismatch},
		"transport key empty":                   {func(r *round) { r.want.TransportKey, r.want.TransportKnown = []byte{}, nil }, attest.TransportKeyMismatch},
		"PCR 16 not quoted":                     {func(r *round) { r.options.TransportKey = nil }, attest.TransportKeyMismatch},
		"transport key changed within a boot":   {func(r *round) { r.want.TransportKnown = []byte(otherPEM) }, attest.TransportKeyMismatch},
		"transport key not sent, another bound": {func(r *round) { r.want.TransportKey, r.want.TransportKnown = nil, []byte(otherPEM) }, attest.TransportKeyMismatch},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRound(t, quotetest.ECDSAP256)
			if _, failures := r.verify(t); len(failures) > 0 {
				t.Fatalf("without the fault: %v", failures)
			}
			tt.fault(r)
			verified, failures := r.verify(t)
			if !failedOnly(failures, tt.want) {
				t.Errorf("failures %v, want %s alone", failures, tt.want)
			}
			if verified.Valid() || !verified.Digest().IsZero() || verified.Selection().Mask != 0 {
				t.Error("a refused quote gave a Verified that holds something")
			}
		})
	}
}

func changeValue(r *round) {
	r.sent = func(raw *quote.Raw) { raw.Digests[0][0] ^= 1 }
}

func swapValues(r *round) {
	r.sent = func(raw *quote.Raw) { raw.Digests[0], raw.Digests[1] = raw.Digests[1], raw.Digests[0] }
}

// relabel shows the signed value of PCR 7 as PCR 8: Keylime takes the numbers from this unsigned part.
func relabel(r *round) {
	r.sent = func(raw *quote.Raw) { raw.Selections = []pcr.Selection{pcr.Select(attest.SHA256, 0, 8, 10, 16)} }
}

func TestVerifyReportsEveryFault(t *testing.T) {
	r := newRound(t, quotetest.ECDSAP256)
	r.options.Nonce = []byte("old")
	r.options.Selection = pcr.Select(attest.SHA256, 0, 7, 11)
	r.options.TransportKey = nil
	r.options.Clock.Clock = 1
	changeValue(r)
	other := quotetest.NewSigner(t, quotetest.ECDSAP256)
	r.want.AK = other.AK()
	verified, failures := r.verify(t)
	var got []attest.FailureID
	for _, f := range failures {
		got = append(got, f.ID)
	}
	want := []attest.FailureID{
		attest.QuoteSignatureInvalid, attest.NonceMismatch, attest.PcrMissing, attest.PcrUnexpected, attest.PcrDigestMismatch,
		attest.TransportKeyMismatch, attest.ClockRollback,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("failures (-want +got):\n%s", diff)
	}
	if verified.Valid() {
		t.Error("the quote is valid")
	}
}

// A clock that went back is proven by the quote that shows it, so the verdict may rest on it.
func TestClockRollbackIsQuoteBacked(t *testing.T) {
	r := newRound(t, quotetest.ECDSAP256)
	r.options.Clock.Clock = r.want.Last.Clock - 1
	verified, failures := r.verify(t)
	if !failedOnly(failures, attest.ClockRollback) {
		t.Fatalf("failures %v", failures)
	}
	if !verified.Valid() || verified.Continuity() != quote.RolledBack {
		t.Errorf("valid %t, continuity %s", verified.Valid(), verified.Continuity())
	}
	r.options.Clock.Clock++
	if _, failures := r.verify(t); len(failures) > 0 {
		t.Errorf("a millisecond later: %v", failures)
	}
}

// A new boot may bring a new transport key, and so may a Restart, which only the caller tells from a Resume.
func TestTransportKeyMayChangeWithTheBoot(t *testing.T) {
	clocks := map[quote.Continuity]quote.Clock{
		quote.NewBoot: {Clock: 1_060_000, ResetCount: 4, Safe: true},
		quote.Resumed: {Clock: 1_060_000, ResetCount: 3, RestartCount: 2, Safe: true},
	}
	for continuity, clock := range clocks {
		t.Run(continuity.String(), func(t *testing.T) {
			r := newRound(t, quotetest.ECDSAP256)
			r.options.Clock = clock
			r.want.TransportKnown = []byte(otherPEM)
			verified, failures := r.verify(t)
			if len(failures) > 0 || verified.Continuity() != continuity {
				t.Fatalf("continuity %s, failures %v", verified.Continuity(), failures)
			}
			if got := string(verified.TransportKey()); got != agentPEM {
				t.Errorf("bound key %q", got)
			}
			r.want.TransportKey = nil
			if verified, failures := r.verify(t); len(failures) > 0 || verified.TransportKey() != nil {
				t.Errorf("not sent again: bound %q, failures %v", verified.TransportKey(), failures)
			}
		})
	}
}

// An agent that is asked not to repeat its key still has to bind the known one.
func TestTransportKeyNeedNotBeRepeated(t *testing.T) {
	r := newRound(t, quotetest.ECDSAP256)
	r.want.TransportKey = nil
	verified, failures := r.verify(t)
	if len(failures) > 0 || string(verified.TransportKey()) != agentPEM {
		t.Errorf("bound %q, failures %v", verified.TransportKey(), failures)
	}
}

func TestSelectionOfRequestAlone(t *testing.T) {
	r := newRound(t, quotetest.ECDSAP256)
	r.options.TransportKey, r.want.TransportKey, r.want.TransportKnown = nil, nil, nil
	if verified, failures := r.verify(t); len(failures) > 0 || verified.Selection() != r.want.Selection {
		t.Errorf("selection %s, failures %v", verified.Selection(), failures)
	}
}

func TestFirstQuoteHasNoClockToFollow(t *testing.T) {
	r := newRound(t, quotetest.ECDSAP256)
	r.want.Last = nil
	if verified, failures := r.verify(t); len(failures) > 0 || verified.Continuity() != quote.FirstSeen {
		t.Errorf("continuity %s, failures %v", verified.Continuity(), failures)
	}
}

func TestZeroQuoteNeverVerifies(t *testing.T) {
	r := newRound(t, quotetest.ECDSAP256)
	if verified, failures := quote.Verify(quote.Quote{}, r.want); verified.Valid() || len(failures) == 0 {
		t.Errorf("valid %t, failures %v", verified.Valid(), failures)
	}
	if verified, failures := quote.Verify(quote.Quote{}, quote.Expected{}); verified.Valid() || len(failures) == 0 {
		t.Errorf("nothing expected: valid %t, failures %v", verified.Valid(), failures)
	}
	if (quote.Verified{}).Valid() {
		t.Error("the zero Verified is valid")
	}
}

package scale

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/evidence/quote/quotetest"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/machine"
	"github.com/assay-project/assay/wire"
)

const (
	imaPCR       = 10
	transportKey = "PEM of the agents' transport key\n"
	// approved are the files of the policy document, which every machine runs.
	approvedFile, intruderFile = "/usr/bin/assay-agent", "/tmp/intruder"
)

// fleet are the simulated machines, by agent. It is what the verifier collects from, and the registrar that knows them.
type fleet struct {
	machines []*attester
	byID     map[attest.AgentID]*attester
	booted   time.Time
	peer     *x509.Certificate // the TLS key that sessions are bound to
}

// attester has an AK, an EK that it is a child of, and a list with the PCR behind it.
type attester struct {
	id    attest.AgentID
	node  string
	ak    *quotetest.Signer
	ek    []byte
	child []byte // the AK's name in quotes

	mu   sync.Mutex
	list []string
	pcr  attest.Digest
}

func newFleet(t testing.TB, size int) *fleet {
	t.Helper()
	f := &fleet{byID: make(map[attest.AgentID]*attester, size), booted: time.Now().Add(-time.Hour)}
	for i := range size {
		m := &attester{id: attest.AgentID(fmt.Sprintf("agent-%05d", i)), node: fmt.Sprintf("node-%05d", i), ak: quotetest.NewSigner(t, quotetest.ECDSAP256)}
		m.ek = ekPublic(quotetest.NewSigner(t, quotetest.ECDSAP256))
		ek, err := endorsement.ParseEK(m.ek)
		if err != nil {
			t.Fatal(err)
		}
		m.child = ek.QualifiedChild(m.ak.AK())
		m.pcr = pcr.Initial(attest.SHA256, imaPCR)
		m.measure("boot_aggregate", attest.SHA256.Sum(make([]byte, 10*sha256.Size)))
		m.run(approvedFile)
		f.machines, f.byID[m.id] = append(f.machines, m), m
	}
	return f
}

// ekPublic is the TPM2B_PUBLIC of an EK by the TCG's ECC template (EK Credential Profile, B.3.4), with the point of a signer's key.
func ekPublic(s *quotetest.Signer) []byte {
	public := s.Public()
	area := binary.BigEndian.AppendUint16(nil, 0x0023) // ECC
	area = append(area, 0x00, 0x0b, 0x00, 0x03, 0x00, 0xb2, 0x00, 0x20)
	area = append(area, attest.SHA256.Sum([]byte("policy")).Bytes()...)
	area = append(area, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x00, 0x03, 0x00, 0x10)
	area = append(area, public[len(public)-68:]...) // two sized coordinates
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(area))), area...)
}

func contentOf(path string) attest.Digest { return attest.SHA256.Sum([]byte(path)) }

// run measures a file as the kernel does when it is executed.
func (m *attester) run(path string) { m.measure(path, contentOf(path)) }

func (m *attester) measure(path string, digest attest.Digest) {
	var data []byte
	for _, field := range []string{"sha256:\x00" + string(digest.Bytes()), path + "\x00"} {
		data = append(binary.LittleEndian.AppendUint32(data, uint32(len(field))), field...)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = append(m.list, fmt.Sprintf("10 %s ima-ng %s %s\n", attest.SHA1.Sum(data).Hex(), digest, path))
	m.pcr = pcr.Extend(m.pcr, attest.SHA256.Sum(data).Bytes())
}

// document approves what every machine runs.
func document() []byte {
	return fmt.Appendf(nil, "apiVersion: policy.assay/v1\nkind: Runtime\nmetadata: {name: fleet}\nspec:\n  digests:\n    %s: [%q]\n", approvedFile, contentOf(approvedFile))
}

func (f *fleet) clock() quote.Clock {
	return quote.Clock{Clock: uint64(time.Since(f.booted).Milliseconds()), ResetCount: 4, Safe: true}
}

// Collect implements verifier.Collector.
func (f *fleet) Collect(_ context.Context, to verifier.Enrolment, r machine.Request) (verifier.Collected, error) {
	m := f.byID[attest.AgentID(to.Address)]
	if m == nil {
		return verifier.Collected{}, fmt.Errorf("nobody answers at %q", to.Address)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	raw := m.ak.Quote(quotetest.Options{
		Nonce: []byte(r.Nonce), Values: pcr.Values{Bank: attest.SHA256, Digests: map[int]attest.Digest{imaPCR: m.pcr}}, Selection: r.Selection,
		Clock: f.clock(), TransportKey: []byte(transportKey), Edit: func(a *quotetest.Attest) { a.Signer = m.child },
	})
	first := min(r.Offset, uint64(len(m.list)))
	answer := machine.Answer{Quote: wire.PackQuote(raw), HasList: true, First: first, List: []byte(strings.Join(m.list[first:], ""))}
	if r.Full {
		answer.TransportKey = transportKey
	}
	return verifier.Collected{Answer: answer}, nil
}

// Agent implements verifier.Registrar.
func (f *fleet) Agent(_ context.Context, id attest.AgentID) (verifier.Registered, error) {
	m := f.byID[id]
	if m == nil {
		return verifier.Registered{}, fmt.Errorf("agent %s: %w", id, verifier.ErrNotFound)
	}
	return verifier.Registered{ID: id, EK: m.ek, AK: m.ak.Public(), Address: string(id), Port: 9002}, nil
}

// Agents implements verifier.Registrar.
func (f *fleet) Agents(context.Context) ([]attest.AgentID, error) {
	ids := make([]attest.AgentID, len(f.machines))
	for i, m := range f.machines {
		ids[i] = m.id
	}
	return ids, nil
}

// claim opens a session, as an agent does after its start: the AK proves itself, and the token says on which node it runs.
func (f *fleet) claim(to http.Handler, m *attester, token string) error {
	var challenge api.SessionChallenge
	if err := f.call(to, http.MethodPost, api.PathAgentSessions, api.SessionRequest{Agent: m.id}, &challenge); err != nil {
		return err
	}
	qualifying := attest.SHA256.Sum([]byte(api.SessionDomain), challenge.Challenge, mtls.KeyDigest(f.peer).Bytes())
	proof := api.SessionProof{NodeToken: token}
	proof.Attest, proof.Signature = m.ak.Certify(qualifying.Bytes(), f.clock())
	return f.call(to, http.MethodPut, api.PathAgentSessions+"/"+challenge.Session, proof, nil)
}

// call makes a request as an agent that presents the fleet's certificate.
func (f *fleet) call(to http.Handler, method, path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request := httptest.NewRequest(method, path, bytes.NewReader(text))
	request.Header.Set("Content-Type", "application/json")
	request.TLS = &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{f.peer}}
	answer := httptest.NewRecorder()
	to.ServeHTTP(answer, request)
	if answer.Code >= http.StatusBadRequest {
		return fmt.Errorf("%s %s: %d %s", method, path, answer.Code, answer.Body)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer.Body.Bytes(), into)
}

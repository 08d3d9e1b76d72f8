package httpapi

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/internal/mtls/mtlstest"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/boxtest"
	"github.com/assay-project/assay/verifier/identity"
)

// What a registrar has of an agent is checked again before it is believed, and a session needs every part of it.
func TestSessionRefused(t *testing.T) {
	s := newSite(t)
	certificate := mtlstest.SelfSigned(t)
	leaf, err := certificate()
	if err != nil {
		t.Fatal(err)
	}
	agent, good := s.client(certificate), s.agents[node1]
	decrypting := good
	decrypting.AK = append([]byte{}, good.AK...)
	decrypting.AK[7] |= 0x02 // objectAttributes: decrypt, so it could sign what a TPM did not make
	broken := good
	broken.AK = good.AK[:8]
	for name, tt := range map[string]struct {
		of        attest.AgentID
		has       verifier.Registered
		nodeToken string
		want      int
		part      string
	}{
		"without a fault":       {node1, good, nodeToken, 200, ""},
		"an AK that decrypts":   {node1, decrypting, "", 422, string(attest.AkAttributes)},
		"half an AK":            {node1, broken, "", 500, "log says why"},
		"an unknown agent":      {"stranger", good, "", 404, "agent stranger"},
		"no registrar":          {"broken", good, "", 502, "connection refused"},
		"a token with a space":  {node1, good, "token a", 400, "nodeToken"},
		"a token with a byte":   {node1, good, "token\x01", 400, "nodeToken"},
		"a token beyond limits": {node1, good, strings.Repeat("x", api.MaxNodeTokenBytes+1), 400, "nodeToken"},
	} {
		t.Run(name, func(t *testing.T) {
			s.agents[node1] = tt.has
			var challenge api.SessionChallenge
			s.into(agent, call{method: "POST", path: api.PathAgentSessions, body: text(t, api.SessionRequest{Agent: tt.of})}, &challenge)
			proof := boxtest.Prove(s.boxes["node-1"].Signer, challenge.Challenge, mtls.KeyDigest(leaf.Leaf))
			proof.NodeToken = tt.nodeToken
			status, body := s.do(agent, call{method: "PUT", path: api.PathAgentSessions + "/" + challenge.Session, body: text(t, proof)})
			if status != tt.want || !strings.Contains(string(body), tt.part) || tt.want >= 400 && tt.nodeToken != "" && strings.Contains(string(body), tt.nodeToken) {
				t.Errorf("%d, want %d with %q: %s", status, tt.want, tt.part, body)
			}
		})
	}
	if log := s.log.String(); !strings.Contains(log, "attestation key") {
		t.Errorf("the log does not say why: %s", log)
	}
}

// Evidence is shown with the certificates of the TPM that was enrolled, and without any once the registrar knows the name as another's.
func TestEvidenceWithoutAnothersCertificates(t *testing.T) {
	s := newSite(t)
	admin := s.as(mtls.Administrator)
	mine := s.agents[node1]
	mine.Chain = [][]byte{[]byte("certificate")}
	s.agents[node1] = mine
	events := s.watchAs(admin)
	s.into(admin, call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true}`}, nil)
	for e := range events {
		if e.To == attest.Unappraised {
			break
		}
	}
	another := mine
	another.EK = append([]byte{}, mine.EK...)
	another.EK[len(another.EK)-1]++
	for name, tt := range map[string]struct {
		has  verifier.Registered
		want int
	}{"the enrolled TPM's": {mine, 1}, "another TPM's": {another, 0}} {
		s.agents[node1] = tt.has
		var e api.Evidence
		s.into(admin, call{method: "GET", path: api.PathNodes + "/node-1/evidence"}, &e)
		if len(e.Chain) != tt.want || len(e.Quote) == 0 {
			t.Errorf("%s: %d certificates, want %d", name, len(e.Chain), tt.want)
		}
	}
}

// Without the server's leave nobody is enrolled on first use, an administrator neither.
func TestFirstUseNeedsLeave(t *testing.T) {
	s := newSite(t)
	admin := s.as(mtls.Administrator)
	enrol := call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true}`}
	s.api.cfg.AllowFirstUse = false
	if status, text := s.do(admin, enrol); status != http.StatusForbidden || !strings.Contains(string(text), "AllowFirstUse") {
		t.Errorf("without leave: %d %s", status, text)
	}
	s.api.cfg.AllowFirstUse = true
	s.into(admin, enrol, nil)
}

// While the process ends, or still loads its nodes, nobody knows who is enrolled: no name and no Kubernetes node becomes free by it.
func TestNobodyIsFreeAtTheEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		ends                              bool
		claim, join, remove, approve, row int
	}{
		"running": {false, http.StatusConflict, http.StatusForbidden, http.StatusNoContent, http.StatusNotFound, http.StatusOK},
		"ending":  {true, 503, 503, 503, 503, 503},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			operator, admin, stranger := s.as(mtls.Operator), s.as(mtls.Administrator), s.client(mtlstest.SelfSigned(t))
			s.into(admin, call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true}`}, nil)
			delete(s.agents, node1) // the registrar forgot it, which does not free what is enrolled
			if err := s.store.Bindings().Bind(t.Context(), verifier.Binding{Agent: node1, Node: api.KubernetesNode{Name: "worker-1", UID: uidA}}); err != nil {
				t.Fatal(err)
			}
			join := api.JoinToken{ID: "0a1b2c", Secret: []byte("0123456789abcdef")}.Credential()
			s.redeemed[join] = ""
			s.beat(stranger, api.Unproven{NodeToken: nodeToken}, "")
			claim := s.claims(operator)[0]
			if err := s.api.presences.Update(identity.Presence{ID: "printer-1"}, func(*api.AgentReport) {}); err != nil {
				t.Fatal(err)
			}
			if tt.ends {
				s.stop()
				for _, err := s.verifier.Show(node1); err == nil; _, err = s.verifier.Show(node1) {
					time.Sleep(time.Millisecond)
				}
			}
			status := map[string]int{}
			status["claim to its Kubernetes node"], _ = s.answer(operator, claim, accepted("worker-1", uidA))
			status["heartbeat under its name"], _ = s.beat(stranger, api.Unproven{Agent: node1}, join)
			status["list of the registered"], _ = s.do(admin, call{method: "GET", path: api.PathRegistered})
			status["approval"], _ = s.do(admin, call{method: "POST", path: api.PathPending + "/node-1/approve"})
			_, held := s.store.Bindings().BindingFor(t.Context(), "worker-1")
			status["removal"], _ = s.do(admin, call{method: "DELETE", path: api.PathNodes + "/node-1"})
			status["removal of an agent without a TPM"], _ = s.do(admin, call{method: "DELETE", path: api.PathNodes + "/printer-1"})
			want := map[string]int{
				"claim to its Kubernetes node": tt.claim, "heartbeat under its name": tt.join, "list of the registered": tt.row, "approval": tt.approve, "removal": tt.remove,
				"removal of an agent without a TPM": tt.remove,
			}
			if diff := cmp.Diff(want, status); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
			if _, kept := s.api.presences.Of("printer-1"); kept != tt.ends {
				t.Errorf("the agent without a TPM is kept: %t", kept)
			}
			if held != nil {
				t.Errorf("its Kubernetes node was free: %v", held)
			}
		})
	}
}

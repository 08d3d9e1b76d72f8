package identity

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/quote/quotetest"
	"github.com/assay-project/assay/verifier/boxtest"
)

// C1: each row is one fault of one session; without it the token is given and good.
func TestSessionProof(t *testing.T) {
	key, otherKey := attest.SHA256.Sum([]byte("TLS key")), attest.SHA256.Sum([]byte("another TLS key"))
	signer, other := boxtest.Signers()[0], boxtest.Signers()[1]
	type attempt struct {
		session         string
		challenge       []byte
		signer          *quotetest.Signer
		bound, presents attest.Digest
		wait            time.Duration
		spoil           func(*api.SessionProof)
	}
	tests := map[string]func(*attempt){
		"bound to another TLS key":               func(a *attempt) { a.bound = otherKey },
		"over another TLS connection":            func(a *attempt) { a.presents = otherKey },
		"relayed over the relay's own key":       func(a *attempt) { a.presents, a.bound = otherKey, otherKey },
		"another agent's AK":                     func(a *attempt) { a.signer = other },
		"another challenge":                      func(a *attempt) { a.challenge = make([]byte, challengeBytes) },
		"too late":                               func(a *attempt) { a.wait = challengeLifetime + time.Second },
		"an unknown session":                     func(a *attempt) { a.session = "00" },
		"no session":                             func(a *attempt) { a.session = "" },
		"a spoilt signature":                     func(a *attempt) { a.spoil = func(p *api.SessionProof) { p.Signature[len(p.Signature)-1] ^= 1 } },
		"a spoilt structure":                     func(a *attempt) { a.spoil = func(p *api.SessionProof) { p.Attest[50] ^= 1 } },
		"bytes behind the structure":             func(a *attempt) { a.spoil = func(p *api.SessionProof) { p.Attest = append(p.Attest, 0) } },
		"nothing":                                func(a *attempt) { a.spoil = func(p *api.SessionProof) { *p = api.SessionProof{} } },
		"a quote with the same data, no certify": func(a *attempt) { a.spoil = func(p *api.SessionProof) { p.Attest[5] = 0x18 } },
	}
	for name, disturb := range tests {
		t.Run(name, func(t *testing.T) {
			for _, good := range []bool{false, true} {
				now := testStart
				s := NewSessions(func() time.Time { return now })
				challenge, err := s.Begin(node1, key)
				if err != nil {
					t.Fatal(err)
				}
				a := attempt{session: challenge.Session, challenge: challenge.Challenge, signer: signer, bound: key, presents: key, spoil: func(*api.SessionProof) {}}
				if !good {
					disturb(&a)
				}
				now = now.Add(a.wait)
				proof := boxtest.Prove(a.signer, a.challenge, a.bound)
				a.spoil(&proof)
				token, err := s.Prove(a.session, signer.AK(), a.presents, proof)
				if !good && !errors.Is(err, ErrSession) {
					t.Errorf("%v, want ErrSession", err)
				}
				if good && (err != nil || token.Token == "") {
					t.Errorf("without the fault: %v", err)
				}
			}
		})
	}
}

func openSession(t *testing.T, s *Sessions, agent attest.AgentID, key attest.Digest) (api.SessionChallenge, api.SessionToken) {
	t.Helper()
	challenge, err := s.Begin(agent, key)
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.Prove(challenge.Session, boxtest.Signers()[0].AK(), key, boxtest.Prove(boxtest.Signers()[0], challenge.Challenge, key))
	if err != nil {
		t.Fatal(err)
	}
	return challenge, token
}

func TestSessionToken(t *testing.T) {
	now := testStart
	s := NewSessions(func() time.Time { return now })
	key, otherKey := attest.SHA256.Sum([]byte("TLS key")), attest.SHA256.Sum([]byte("another TLS key"))
	challenge, first := openSession(t, s, node1, key)

	if _, err := s.Prove(challenge.Session, boxtest.Signers()[0].AK(), key, boxtest.Prove(boxtest.Signers()[0], challenge.Challenge, key)); !errors.Is(err, ErrSession) {
		t.Errorf("a challenge served twice: %v", err)
	}
	if who, err := s.AgentOf(first.Token, key); who != node1 || err != nil {
		t.Errorf("a good token: %q, %v", who, err)
	}
	for name, try := range map[string]func() (attest.AgentID, error){
		"over another TLS key": func() (attest.AgentID, error) { return s.AgentOf(first.Token, otherKey) },
		"of nobody":            func() (attest.AgentID, error) { return s.AgentOf("", key) },
		"guessed":              func() (attest.AgentID, error) { return s.AgentOf(first.Token[:len(first.Token)-1]+"x", key) },
	} {
		if who, err := try(); !errors.Is(err, ErrSession) || who != "" {
			t.Errorf("a token %s: %q, %v", name, who, err)
		}
	}
	_, second := openSession(t, s, node1, otherKey)
	if _, err := s.AgentOf(first.Token, key); !errors.Is(err, ErrSession) {
		t.Errorf("the token before the last one: %v", err)
	}
	if _, err := s.AgentOf(second.Token, otherKey); err != nil {
		t.Errorf("the last token: %v", err)
	}
	now = now.Add(tokenLifetime + time.Second)
	if _, err := s.AgentOf(second.Token, otherKey); !errors.Is(err, ErrSession) {
		t.Errorf("an expired token: %v", err)
	}
}

// Anybody may ask for challenges; what is kept of them is bounded, and a flood locks nobody out.
func TestChallengesAreBounded(t *testing.T) {
	now := testStart
	s := NewSessions(func() time.Time { return now })
	key := attest.SHA256.Sum([]byte("TLS key"))
	for range maxChallenges + 10 {
		if _, err := s.Begin("stranger", key); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.challenges) != maxChallenges {
		t.Errorf("%d challenges are kept, want %d", len(s.challenges), maxChallenges)
	}
	openSession(t, s, node1, key)
	now = now.Add(challengeLifetime + time.Second)
	for range 2 {
		if _, err := s.Begin("stranger", key); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.challenges) != 2 {
		t.Errorf("%d challenges are kept after all others expired", len(s.challenges))
	}
}

// What agents say is kept for those that are enrolled; of all others so much and no more.
func TestReportsAreBounded(t *testing.T) {
	enrolled := map[attest.AgentID]bool{node1: true}
	r := NewReports(func(id attest.AgentID) bool { return enrolled[id] })
	say := func(id attest.AgentID) {
		r.Update(id, func(report *api.AgentReport) { report.Heartbeat.Version = string(id) })
	}
	say(node1)
	say("node-2")
	enrolled["node-2"] = true
	say("node-2")
	for i := range maxReports + 10 {
		say(attest.AgentID(fmt.Sprintf("stranger-%d", i)))
		say(attest.AgentID(fmt.Sprintf("stranger-%d", i)))
	}
	if len(r.by) != maxReports+2 || len(r.strangers) != maxReports {
		t.Errorf("%d reports, %d of strangers", len(r.by), len(r.strangers))
	}
	for id := range enrolled {
		if report := r.Of(id); report == nil || report.Heartbeat.Version != string(id) {
			t.Errorf("the report of %s: %+v", id, report)
		}
	}
	if r.Forget(node1); r.Of(node1) != nil || r.Of("node-2") == nil {
		t.Error("after a removal")
	}
}

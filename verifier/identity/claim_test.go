package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/sqlstore/sqlstoretest"
	"github.com/assay-project/assay/verifier"
)

// interrupted is a store of bindings in which something happens while a binding is written.
type interrupted struct {
	verifier.BindingStore
	meanwhile func()
}

func (i interrupted) Bind(ctx context.Context, b verifier.Binding) error {
	i.meanwhile()
	return i.BindingStore.Bind(ctx, b)
}

const node1 = attest.AgentID("node-1")

var testStart = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func accepted(name, uid string) api.ClaimAnswer {
	return api.ClaimAnswer{Accepted: true, Node: &api.KubernetesNode{Name: name, UID: uid}, Expires: testStart.Add(time.Hour)}
}

// newClaims are claims to the nodes of an empty store, of agents that all live.
func newClaims(t *testing.T, now *time.Time) *Claims {
	t.Helper()
	live := func(context.Context, attest.AgentID) (bool, error) { return true, nil }
	return NewClaims(ClaimsConfig{Now: func() time.Time { return *now }, Log: slog.New(slog.DiscardHandler), Bindings: sqlstoretest.Open(t).Bindings(), Live: live})
}

// oneClaim returns the only claim that waits.
func oneClaim(t *testing.T, c *Claims) api.Claim {
	t.Helper()
	waiting := c.Waiting()
	if len(waiting) != 1 {
		t.Fatalf("%d claims wait, want 1", len(waiting))
	}
	return waiting[0]
}

// An answer is for the claim that it names: one that took its place while it was carried out waits for its own.
func TestAnswerIsForOneClaim(t *testing.T) {
	now := testStart
	c := newClaims(t, &now)
	if err := c.Proven(node1, "token.old"); err != nil {
		t.Fatal(err)
	}
	c.cfg.Bindings = interrupted{c.cfg.Bindings, func() {
		if err := c.Proven(node1, "token.new"); err != nil {
			t.Error(err)
		}
	}}
	if _, err := c.Answer(t.Context(), oneClaim(t, c).ID, accepted("worker-1", "uid-1")); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("the answer to a claim that was superseded meanwhile: %v", err)
	}
	newer := oneClaim(t, c)
	if newer.Token != "token.new" {
		t.Errorf("the claim with %s waits", newer.Token)
	}
	c.cfg.Bindings = sqlstoretest.Open(t).Bindings()
	if _, err := c.Answer(t.Context(), newer.ID, accepted("worker-1", "uid-1")); err != nil {
		t.Errorf("its own answer: %v", err)
	}
	for _, s := range c.by {
		if s.Claim.Token != "" {
			t.Error("the token is kept after the answer")
		}
	}
}

// A TPM that takes a node ends what the holder of a token without one was accepted for.
func TestProvenAgentTakesTheNode(t *testing.T) {
	for name, tt := range map[string]struct {
		node string
		want verdictOnClaim
	}{"the same": {"worker-1", claimWaits}, "another": {"worker-2", claimAccepted}} {
		t.Run(name, func(t *testing.T) {
			now := testStart
			c := newClaims(t, &now)
			if _, err := c.Stranger("token.none", nil); err != nil {
				t.Fatal(err)
			}
			answer := accepted("worker-1", "uid-1")
			answer.Expires = now.Add(time.Hour)
			if _, err := c.Answer(t.Context(), oneClaim(t, c).ID, answer); err != nil {
				t.Fatal(err)
			}
			if s, err := c.Stranger("token.none", nil); err != nil || s.verdict != claimAccepted {
				t.Fatalf("accepted: %v, %v", s.verdict, err)
			}
			if err := c.Proven(node1, "token.tpm"); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Answer(t.Context(), oneClaim(t, c).ID, accepted(tt.node, "uid-1")); err != nil {
				t.Fatal(err)
			}
			if s, err := c.Stranger("token.none", nil); err != nil || s.verdict != tt.want {
				t.Errorf("afterwards: %v, %v, want %v", s.verdict, err, tt.want)
			}
		})
	}
}

// A refusal ends with its time: the agent may have been right all along.
func TestRefusalEnds(t *testing.T) {
	now := testStart
	c := newClaims(t, &now)
	if err := c.Proven(node1, "token.a"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Answer(t.Context(), oneClaim(t, c).ID, api.ClaimAnswer{Reason: "no"}); err != nil {
		t.Fatal(err)
	}
	if err := c.Refused(node1); !errors.Is(err, ErrClaimRefused) {
		t.Errorf("at once: %v", err)
	}
	now = now.Add(RefusalLifetime)
	if err := c.Refused(node1); err != nil {
		t.Errorf("after its time: %v", err)
	}
}

func TestForgetNode(t *testing.T) {
	p := NewPresences(time.Now)
	for id, node := range map[attest.AgentID]*api.KubernetesNode{"uid-1": {Name: "worker-1"}, "uid-2": {Name: "worker-2"}, "worker-1": nil} {
		if err := p.Update(Presence{ID: id, Node: node}, func(*api.AgentReport) {}); err != nil {
			t.Fatal(err)
		}
	}
	p.ForgetNode("worker-1")
	for id, want := range map[attest.AgentID]bool{"uid-1": false, "uid-2": true, "worker-1": true} {
		if _, known := p.Of(id); known != want {
			t.Errorf("%s is known: %t, want %t", id, known, want)
		}
	}
}

// A node that comes back without a TPM is nobody's any longer, once who held it is gone.
func TestNodeWithoutTPMIsNobodys(t *testing.T) {
	now := testStart
	c := newClaims(t, &now)
	held := verifier.Binding{Agent: node1, Node: api.KubernetesNode{Name: "worker-1", UID: "uid-1"}, At: now}
	if err := c.cfg.Bindings.Bind(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	answer := accepted("worker-1", "uid-1")
	answer.Expires = now.Add(time.Hour)
	for _, lives := range []bool{true, false} {
		c.cfg.Live = func(context.Context, attest.AgentID) (bool, error) { return lives, nil }
		if _, err := c.Stranger(fmt.Sprint("token.", lives), nil); err != nil {
			t.Fatal(err)
		}
		_, err := c.Answer(t.Context(), oneClaim(t, c).ID, answer)
		if refused := errors.Is(err, verifier.ErrConflict); refused != lives {
			t.Errorf("the holder lives: %t, and the answer is %v", lives, err)
		}
		if _, err := c.cfg.Bindings.BindingFor(t.Context(), "worker-1"); errors.Is(err, verifier.ErrNotFound) == lives {
			t.Errorf("the holder lives: %t, and its binding: %v", lives, err)
		}
	}
}

// Strangers cannot fill the memory, and those that they are too many for are their own kind.
func TestClaimsAreBounded(t *testing.T) {
	c := NewClaims(ClaimsConfig{Now: time.Now})
	if err := c.Proven(node1, "token.tpm"); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxStrangers {
		if _, err := c.Stranger(fmt.Sprint("token.", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.by) != maxStrangers+1 {
		t.Errorf("%d claims are kept, want %d and the proven one", len(c.by), maxStrangers)
	}
	waiting := c.Waiting()
	if len(waiting) != api.MaxPage || waiting[0].Agent != node1 {
		t.Errorf("%d claims wait, the first of %q", len(waiting), waiting[0].Agent)
	}
	now := time.Now().Add(provenClaimLifetime + time.Second)
	c.cfg.Now = func() time.Time { return now }
	if waiting := c.Waiting(); len(waiting) != 0 {
		t.Errorf("%d expired claims wait", len(waiting))
	}
}

func TestPresencesAreBounded(t *testing.T) {
	now := time.Now()
	p := NewPresences(func() time.Time { return now })
	nothing := func(*api.AgentReport) {}
	for i := range maxPresences {
		if err := p.Update(Presence{ID: attest.AgentID(fmt.Sprint("agent-", i))}, nothing); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Update(Presence{ID: "one-more"}, nothing); err == nil {
		t.Error("one more is kept")
	}
	if err := p.Update(Presence{ID: "agent-0"}, nothing); err != nil {
		t.Errorf("a known one: %v", err)
	}
	if err := p.Update(Presence{ID: "agent-0", Node: &api.KubernetesNode{}}, nothing); err == nil {
		t.Error("the UID of a node takes the place of a name")
	}
	now = now.Add(PresenceLifetime + time.Second)
	if err := p.Update(Presence{ID: "one-more"}, nothing); err != nil {
		t.Errorf("after the others' end: %v", err)
	}
}

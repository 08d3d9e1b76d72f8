package identity

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier"
)

// Limits of claims.
const (
	// provenClaimLifetime is a session's: its renewal makes a new claim. An agent without a TPM repeats its claim with each heartbeat.
	provenClaimLifetime = tokenLifetime
	// StrangerClaimLifetime is how long a claim without a TPM waits for the operator.
	StrangerClaimLifetime = 5 * time.Minute
	// RefusalLifetime is how long a refusal holds. Then the same token may be claimed with again: the operator's mind, or the cluster, may have
	// changed.
	RefusalLifetime = 2 * time.Minute
	// MaxAcceptedLifetime bounds the time for which a token without a TPM is accepted.
	MaxAcceptedLifetime = 24 * time.Hour
	// maxStrangers bounds what clients that proved nothing can make us keep and the operator review. Beyond it an arbitrary one of theirs gives way, as
	// with challenges: refusing would let a flood lock all others out.
	maxStrangers = 1024
)

// ErrClaimRefused says that the operator refused to take an agent for the node that it claims to run on.
var ErrClaimRefused = errors.New("the claim to a Kubernetes node was refused")

// ClaimsConfig is what Claims need. All members must be set.
type ClaimsConfig struct {
	Now      func() time.Time
	Log      *slog.Logger
	Bindings verifier.BindingStore
	// Live reports whether an agent is still there, so that its node is not free.
	Live func(ctx context.Context, agent attest.AgentID) (bool, error)
}

// Claims are the agents' claims to Kubernetes nodes. They live in memory: tokens are secrets, and after a restart of the server agents claim again.
type Claims struct {
	cfg ClaimsConfig

	deciding sync.Mutex // one answer at a time: between looking at a binding and changing it nobody else does
	mu       sync.Mutex
	by       map[claimant]*Standing
}

// NewClaims keeps the claims to nodes whose bindings are stored.
func NewClaims(cfg ClaimsConfig) *Claims {
	return &Claims{cfg: cfg, by: make(map[claimant]*Standing)}
}

// claimant is who claims: an agent that proved its TPM, or the holder of a token.
type claimant struct {
	agent attest.AgentID
	token [sha256.Size]byte // zero for a proven agent
}

type verdictOnClaim int

const (
	claimWaits verdictOnClaim = iota
	claimAccepted
	claimRefused
)

// Standing is where a claim stands.
type Standing struct {
	Claim   api.Claim // its Token is emptied with the answer
	token   [sha256.Size]byte
	verdict verdictOnClaim
	Node    api.KubernetesNode // where it was accepted
	reason  string             // where it was refused
	until   time.Time
}

// Accepted reports whether the operator took the agent for the node.
func (s Standing) Accepted() bool { return s.verdict == claimAccepted }

func (s *Standing) refusal() error { return fmt.Errorf("%w: %s", ErrClaimRefused, s.reason) }

// CheckNodeToken refuses what cannot be a token. Its error never holds the token.
func CheckNodeToken(token string) error {
	if token == "" || len(token) > api.MaxNodeTokenBytes || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return fmt.Errorf("%w: nodeToken is no token of 1 to %d bytes", verifier.ErrInvalid, api.MaxNodeTokenBytes)
	}
	return nil
}

// Proven takes the claim of an agent that proved its TPM. A new token supersedes the claim with an older one.
func (c *Claims) Proven(agent attest.AgentID, token string) error {
	_, err := c.look(claimant{agent: agent}, token, provenClaimLifetime)
	return err
}

// Refused returns why the last claim of a proven agent was refused, or nil.
func (c *Claims) Refused(agent attest.AgentID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.by[claimant{agent: agent}]; s != nil && s.verdict == claimRefused && c.cfg.Now().Before(s.until) {
		return s.refusal()
	}
	return nil
}

// Stranger takes the claim of a client that proved nothing but holds a token, and returns where it stands: accepted or waiting.
// Checks, if there are any, are shown to the operator while it waits.
func (c *Claims) Stranger(token string, checks []api.PreflightCheck) (Standing, error) {
	who := claimant{token: sha256.Sum256([]byte(token))}
	s, err := c.look(who, token, StrangerClaimLifetime)
	if err != nil {
		return s, err
	}
	if s.verdict == claimRefused {
		return s, s.refusal()
	}
	if s.verdict == claimWaits && checks != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if kept := c.by[who]; kept != nil {
			kept.Claim.Preflight = checks
		}
	}
	return s, nil
}

// look returns where a claim stands, and makes it where there is none with this token.
func (c *Claims) look(who claimant, token string, lifetime time.Duration) (Standing, error) {
	id := make([]byte, 16)
	if _, err := io.ReadFull(rand.Reader, id); err != nil {
		return Standing{}, fmt.Errorf("draw claim id: %w", err)
	}
	sum, now := sha256.Sum256([]byte(token)), c.cfg.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.by[who]; s != nil && s.token == sum && now.Before(s.until) {
		return *s, nil
	}
	if who.agent == "" {
		c.makeRoom(now)
	}
	s := &Standing{
		Claim: api.Claim{ID: hex.EncodeToString(id), Agent: who.agent, Token: token, At: now},
		token: sum, until: now.Add(lifetime),
	}
	c.by[who] = s
	return *s, nil
}

// makeRoom drops what is over, and an arbitrary stranger where there are too many.
func (c *Claims) makeRoom(now time.Time) {
	maps.DeleteFunc(c.by, func(_ claimant, s *Standing) bool { return !now.Before(s.until) })
	strangers := 0
	for who, s := range c.by {
		if who.agent != "" || s.verdict == claimAccepted {
			continue
		}
		if strangers++; strangers >= maxStrangers {
			delete(c.by, who)
			return
		}
	}
}

// Waiting lists the claims that the operator has to answer: those of proven agents first, so that strangers cannot delay them.
func (c *Claims) Waiting() []api.Claim {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []api.Claim
	for _, s := range c.by {
		if s.verdict == claimWaits && c.cfg.Now().Before(s.until) {
			list = append(list, s.Claim)
		}
	}
	slices.SortFunc(list, func(a, b api.Claim) int {
		if (a.Agent == "") != (b.Agent == "") {
			return -cmp.Compare(a.Agent, b.Agent)
		}
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID))
	})
	return list[:min(len(list), api.MaxPage)]
}

// Answer carries out the operator's answer. It returns what became of the claim, for who has to know.
func (c *Claims) Answer(ctx context.Context, id string, answer api.ClaimAnswer) (Standing, error) {
	if err := answer.Validate(); err != nil {
		return Standing{}, fmt.Errorf("%w: %w", verifier.ErrInvalid, err)
	}
	c.deciding.Lock()
	defer c.deciding.Unlock()
	who, claim, err := c.find(id)
	if err != nil {
		return Standing{}, err
	}
	now := c.cfg.Now()
	if !answer.Accepted {
		return c.settle(who, id, Standing{verdict: claimRefused, reason: answer.Reason, until: now.Add(RefusalLifetime)})
	}
	until := now.Add(provenClaimLifetime)
	if claim.Agent == "" {
		until = answer.Expires
		if !until.After(now) || until.After(now.Add(MaxAcceptedLifetime)) {
			return Standing{}, fmt.Errorf("%w: expires: %s is not within %v from now", verifier.ErrInvalid, until.Format(time.RFC3339), MaxAcceptedLifetime)
		}
	}
	if conflict, err := c.conflict(ctx, claim.Agent, answer); err != nil {
		return Standing{}, err
	} else if conflict != "" {
		_, err := c.settle(who, id, Standing{verdict: claimRefused, reason: conflict, until: now.Add(RefusalLifetime)})
		return Standing{}, errors.Join(fmt.Errorf("%w: %s", verifier.ErrConflict, conflict), err)
	}
	if err := c.bind(ctx, verifier.Binding{Agent: claim.Agent, Node: *answer.Node, At: now}); err != nil {
		return Standing{}, fmt.Errorf("bind node %s to agent %s: %w", answer.Node.Name, claim.Agent, err)
	}
	return c.settle(who, id, Standing{verdict: claimAccepted, Node: *answer.Node, until: until})
}

// bind stores a binding. A node without a TPM is nobody's: whoever held it has been replaced or is gone.
func (c *Claims) bind(ctx context.Context, b verifier.Binding) error {
	if b.Agent != "" {
		c.mu.Lock()
		maps.DeleteFunc(c.by, func(who claimant, s *Standing) bool {
			return who.agent == "" && s.verdict == claimAccepted && s.Node.Name == b.Node.Name
		})
		c.mu.Unlock()
		return c.cfg.Bindings.Bind(ctx, b)
	}
	holder, err := c.cfg.Bindings.BindingFor(ctx, b.Node.Name)
	if errors.Is(err, verifier.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.cfg.Bindings.Unbind(ctx, holder.Agent)
}

// find returns the claim that waits under an id.
func (c *Claims) find(id string) (claimant, api.Claim, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for who, s := range c.by {
		if s.Claim.ID == id && s.verdict == claimWaits && c.cfg.Now().Before(s.until) {
			return who, s.Claim, nil
		}
	}
	return claimant{}, api.Claim{}, fmt.Errorf("claim %.40q: %w", id, verifier.ErrNotFound)
}

// settle ends the wait of a claim, unless a newer one has taken its place meanwhile.
func (c *Claims) settle(who claimant, id string, end Standing) (Standing, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.by[who]
	if s == nil || s.Claim.ID != id {
		return Standing{}, fmt.Errorf("claim %.40q: %w", id, verifier.ErrNotFound)
	}
	end.Claim, end.token = s.Claim, s.token
	end.Claim.Token = ""
	*s = end
	if end.verdict == claimRefused {
		c.cfg.Log.Warn("claim to a Kubernetes node refused", "agent", s.Claim.Agent, "claim", id, "reason", end.reason)
	}
	return *s, nil
}

// conflict says why a claim cannot be accepted although the token is good: one EK, one Node. An agent is empty that has no TPM.
// A Node object that was made anew, with another UID, is another node.
func (c *Claims) conflict(ctx context.Context, agent attest.AgentID, answer api.ClaimAnswer) (string, error) {
	if answer.Replaced {
		return "", nil
	}
	holder, err := c.cfg.Bindings.BindingFor(ctx, answer.Node.Name)
	if err != nil && !errors.Is(err, verifier.ErrNotFound) {
		return "", fmt.Errorf("look up node %s: %w", answer.Node.Name, err)
	}
	if err == nil && holder.Agent != agent && holder.Node.UID == answer.Node.UID {
		live, err := c.cfg.Live(ctx, holder.Agent)
		if err != nil {
			return "", fmt.Errorf("look up agent %s: %w", holder.Agent, err)
		}
		if live {
			return fmt.Sprintf("node %s is bound to agent %s, which is still registered; a person has to say that the machine was replaced", holder.Node.Name, holder.Agent), nil
		}
	}
	if agent == "" {
		return "", nil
	}
	own, err := c.cfg.Bindings.BindingOf(ctx, agent)
	if err != nil && !errors.Is(err, verifier.ErrNotFound) {
		return "", fmt.Errorf("look up the node of agent %s: %w", agent, err)
	}
	if err == nil && own.Node.Name != answer.Node.Name {
		return fmt.Sprintf("agent %s is bound to node %s; a person has to say that the machine got another name", agent, own.Node.Name), nil
	}
	return "", nil
}

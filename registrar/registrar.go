package registrar

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/wire"
)

// Limits and defaults.
const (
	defaultChallengeLifetime = 5 * time.Minute // a slow TPM needs seconds; the rest is the network's
	defaultApprovalLifetime  = 7 * 24 * time.Hour
	defaultMaxUnproven       = 4096
	defaultMaxWaiting        = 1024
	defaultMaxUnendorsed     = 20_000
	maxChallenges            = 8 // per agent
	pageOfRecords            = 500
)

// Config is what a Registrar needs. Store, Roots and Role must be set.
type Config struct {
	Store Store
	// Tokens redeems join tokens; nil means that there are none, so that every name of one's own needs a person's approval.
	Tokens Tokens
	// Roots returns the accepted vendor roots. It is asked at each registration.
	Roots func(context.Context) (*endorsement.Roots, error)
	// Role tells role and name of a client certificate that the clients' CA signed; ok is false for every other connection.
	Role func(*tls.ConnectionState) (role mtls.Role, name string, ok bool)
	// AllowReimage says of which agents a machine whose TPM is known may come back with a new AK without a person's approval; nil says no.
	// It is called within a transaction of the store and must not use it.
	AllowReimage func(attest.AgentID) bool
	// ChallengeLifetime is the time between registration and activation; 0 means 5 minutes. ApprovalLifetime is how long a
	// proven registration waits for a person; 0 means 7 days.
	ChallengeLifetime, ApprovalLifetime time.Duration
	// MaxUnproven, MaxWaiting and MaxUnendorsed bound what strangers can make us keep: agents of which nothing is proven, those
	// that wait for approval, and those whose EK no vendor root endorses. 0 means 4096, 1024 and 20,000.
	MaxUnproven, MaxWaiting, MaxUnendorsed int
	// PerAddress bounds the calls of one address (an IPv6 /64 counts as one), PerAgent those of one address about one agent, in calls per
	// second with bursts. The zero Rate means 50 with a burst of 200, and 0.5 with a burst of 20.
	PerAddress, PerAgent Rate
	// Now and Rand default to the machine's clock and random source.
	Now  func() time.Time
	Rand io.Reader
	Log  *slog.Logger
	// Metrics is where the registrar registers its metrics; nil for none.
	Metrics prometheus.Registerer
}

// Rate is a number of calls per second with a burst.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Registrar takes in agents.
type Registrar struct {
	cfg     Config
	bounds  *bounds
	limits  *limits
	metrics *metrics
}

// New makes a registrar and reports every mistake of its configuration at once.
func New(cfg Config) (*Registrar, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("registrar: %w", err)
	}
	r := &Registrar{cfg: cfg, metrics: newMetrics(cfg.Metrics)}
	r.bounds = &bounds{cfg: &r.cfg, metrics: r.metrics}
	r.limits = newLimits(cfg.PerAddress, cfg.PerAgent)
	return r, nil
}

// complete checks a configuration and sets its defaults.
func (c *Config) complete() error {
	var mistakes []error
	for _, m := range []struct {
		missing bool
		name    string
	}{{c.Store == nil, "Store"}, {c.Roots == nil, "Roots"}, {c.Role == nil, "Role"}} {
		if m.missing {
			mistakes = append(mistakes, fmt.Errorf("%s is not set", m.name))
		}
	}
	for _, n := range []struct {
		value *int
		zero  int
		name  string
	}{{&c.MaxUnproven, defaultMaxUnproven, "MaxUnproven"}, {&c.MaxWaiting, defaultMaxWaiting, "MaxWaiting"}, {&c.MaxUnendorsed, defaultMaxUnendorsed, "MaxUnendorsed"}} {
		if *n.value < 0 {
			mistakes = append(mistakes, fmt.Errorf("%s is %d", n.name, *n.value))
		} else if *n.value == 0 {
			*n.value = n.zero
		}
	}
	for _, d := range []struct {
		value *time.Duration
		zero  time.Duration
		name  string
	}{{&c.ChallengeLifetime, defaultChallengeLifetime, "ChallengeLifetime"}, {&c.ApprovalLifetime, defaultApprovalLifetime, "ApprovalLifetime"}} {
		if *d.value < 0 {
			mistakes = append(mistakes, fmt.Errorf("%s is %v", d.name, *d.value))
		} else if *d.value == 0 {
			*d.value = d.zero
		}
	}
	for _, l := range []struct {
		value *Rate
		zero  Rate
		name  string
	}{{&c.PerAddress, Rate{50, 200}, "PerAddress"}, {&c.PerAgent, Rate{0.5, 20}, "PerAgent"}} {
		if *l.value == (Rate{}) {
			*l.value = l.zero
		} else if !(l.value.PerSecond > 0) || l.value.Burst < 2 {
			mistakes = append(mistakes, fmt.Errorf("%s is %+v; a registration makes two calls", l.name, *l.value))
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return errors.Join(mistakes...)
}

// Caller is who registers: the id that is claimed, and the address that the request came from. Nothing of it is proven; registrations that
// are not proven either are shared out among the addresses.
type Caller struct {
	ID   attest.AgentID
	From netip.Prefix
}

// Register takes what an agent says of itself and returns a credential that only the TPM with its EK can open, for its AK only. Nothing that
// others see changes before Activate. body.AgentID is not looked at.
//
// Errors wrap ErrInvalid, ErrIdentity, ErrEKTaken, ErrToken or ErrFull; their texts are for the agent.
func (r *Registrar) Register(ctx context.Context, by Caller, body wire.RegisterRequest) (endorsement.Credential, error) {
	id := by.ID
	c, err := r.parse(ctx, body)
	if err != nil {
		return endorsement.Credential{}, err
	}
	old, err := r.lookup(ctx, id)
	if err != nil {
		return endorsement.Credential{}, err
	}
	if err := r.free(ctx, id, c.ek.ID()); err != nil {
		return endorsement.Credential{}, err
	}
	if old == nil || old.Active == nil {
		if err := r.redeem(ctx, id, body.JoinToken, &c); err != nil {
			return endorsement.Credential{}, err
		}
	}
	if err := admissible(old, c.Registration); err != nil {
		return endorsement.Credential{}, err
	}
	d := demand{newcomer(old, c.Registration), r.approval(old, id, c.Registration) != "", source(by.From)}
	if err := r.bounds.take(ctx, d); err != nil {
		return endorsement.Credential{}, err
	}
	return r.challenge(ctx, by, c)
}

// lookup returns a record, or nil.
func (r *Registrar) lookup(ctx context.Context, id attest.AgentID) (*Record, error) {
	old, err := r.cfg.Store.Get(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up agent %s: %w", id, err)
	}
	return &old, nil
}

// free refuses an EK that another agent has proven. The other's name is told to the log and not to the stranger who asks.
func (r *Registrar) free(ctx context.Context, id, ek attest.AgentID) error {
	holder, err := r.cfg.Store.ByEK(ctx, ek)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("look up endorsement key %s: %w", ek, err)
	case holder.ID != id:
		r.cfg.Log.Warn("registration refused: the endorsement key belongs to another agent", "agent", id, "holder", holder.ID)
		return taken(id)
	}
	return nil
}

// redeem uses a join token for a name. The default name needs none: a token that came with it is bound to the agent where it can be, and otherwise passed over.
func (r *Registrar) redeem(ctx context.Context, id attest.AgentID, text string, c *candidate) error {
	if text == "" {
		return nil
	}
	token, err := r.redeemed(ctx, id, text)
	if errors.Is(err, ErrToken) && id == c.ek.ID() {
		r.cfg.Log.Info("a join token that is not needed does not hold either", "agent", id, "err", err)
		return nil
	}
	c.Token = token
	return err
}

// challenge makes the credential and keeps its secret.
func (r *Registrar) challenge(ctx context.Context, by Caller, c candidate) (endorsement.Credential, error) {
	id := by.ID
	secret, err := wire.NewChallenge(r.cfg.Rand)
	if err != nil {
		return endorsement.Credential{}, err
	}
	credential, err := endorsement.MakeCredential(r.cfg.Rand, c.ek, c.ak.Name(), secret)
	if err != nil {
		return endorsement.Credential{}, fmt.Errorf("agent %s: %w", id, err)
	}
	now := r.cfg.Now()
	added := Challenge{Registration: c.Registration, Secret: secret, Expires: now.Add(r.cfg.ChallengeLifetime), From: source(by.From)}
	err = r.cfg.Store.Update(ctx, id, func(old *Record) (*Record, error) {
		if err := admissible(old, c.Registration); err != nil {
			return nil, err
		}
		if old == nil {
			old = &Record{ID: id}
		}
		old.Challenges = shareOut(append(live(old.Challenges, now), added))
		return old, nil
	})
	if err != nil {
		return endorsement.Credential{}, wrap("register agent %s", id, err)
	}
	return credential, nil
}

// Activate checks the proof that the credential was opened, and makes the registration active or, where a person has to approve it, lets it wait;
// approval is the reason then. A proof that fits no registration discards none, because anybody who knows the id can send one; a right one
// cannot be guessed, and docs/adr/0003-failed-activations.md has the rest.
//
// Errors wrap ErrNotFound, ErrTag, ErrIdentity or ErrEKTaken.
func (r *Registrar) Activate(ctx context.Context, id attest.AgentID, tag string) (approval string, err error) {
	now := r.cfg.Now()
	err = r.cfg.Store.Update(ctx, id, func(old *Record) (*Record, error) {
		approval = ""
		if old == nil {
			return nil, notFound(id)
		}
		old.Challenges = live(old.Challenges, now)
		if len(old.Challenges) == 0 {
			return nil, refuse(ErrNotFound, "Agent with ID '%s' has no registration that waits for its activation: it was activated, gave way or has expired; register again", id)
		}
		i := answered(old.Challenges, tag, id)
		if i < 0 {
			return nil, refuse(ErrTag, "Auth tag for agent '%s' does not match expected value: it answers none of the registrations that wait for their activation", id)
		}
		proven := old.Challenges[i].Registration
		if err := admissible(old, proven); err != nil {
			return nil, err
		}
		old.Challenges = after(old.Challenges, i)
		approval = r.approval(old, id, proven)
		return r.promote(old, proven, approval)
	})
	switch {
	case errors.Is(err, ErrEKTaken):
		return "", taken(id)
	case err != nil:
		return "", wrap("activate agent %s", id, err)
	}
	return approval, nil
}

// answered returns the index of the challenge that the tag proves, or -1.
func answered(challenges []Challenge, tag string, id attest.AgentID) int {
	return slices.IndexFunc(challenges, func(c Challenge) bool {
		return hmac.Equal([]byte(wire.AuthTag(c.Secret, string(id))), []byte(tag))
	})
}

// promote makes a proven registration active or waiting.
func (r *Registrar) promote(record *Record, proven Registration, approval string) (*Record, error) {
	ek, err := endorsement.ParseEK(proven.EK)
	if err != nil {
		return nil, fmt.Errorf("stored registration: %w", err)
	}
	record.EK = ek.ID()
	if approval != "" {
		record.Waiting = &Waiting{Registration: proven, Reason: approval, Expires: r.cfg.Now().Add(r.cfg.ApprovalLifetime)}
		return record, nil
	}
	activate(record, proven)
	return record, nil
}

// activate replaces the active registration. One that waits stays unless it is the same or was the only one.
func activate(record *Record, proven Registration) {
	if record.Active == nil || !sameKeys(*record.Active, proven) {
		record.Count++
	}
	if record.Active == nil || record.Waiting != nil && sameKeys(record.Waiting.Registration, proven) {
		record.Waiting = nil
	}
	record.Active = &proven
}

func sameKeys(a, b Registration) bool { return bytes.Equal(a.EK, b.EK) && bytes.Equal(a.AK, b.AK) }

// newcomer returns what a registration would add to the bounded kinds.
func newcomer(old *Record, c Registration) Counts {
	var add Counts
	if old == nil {
		add.Unproven = 1
	}
	if (old == nil || old.Active == nil) && c.NotEndorsed != "" {
		add.Unendorsed = 1
	}
	// It counts only where approval is needed. A known machine that waits with another AK adds to no bound, or strangers could keep it out.
	if old == nil || old.Active == nil && old.Waiting == nil {
		add.Waiting = 1
	}
	return add
}

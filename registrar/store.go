package registrar

import (
	"context"
	"errors"
	"time"

	"github.com/assay-project/assay/attest"
)

// Sentinel errors of a store; the HTTP table maps them to statuses.
var (
	// ErrNotFound: no such record.
	ErrNotFound = errors.New("not found")
	// ErrEKTaken: another record holds the proven EK of the record to be written.
	ErrEKTaken = errors.New("the endorsement key belongs to another agent")
)

// Record is what the registrar knows of one agent id. At least one of Active, Waiting and Challenges is set.
type Record struct {
	ID attest.AgentID `json:"id"`
	// EK is the hash of the endorsement key that an activation has proven; empty before the first one. No two records have the same.
	EK attest.AgentID `json:"ek,omitempty"`
	// Active is the registration that others see: proven, and approved where that was needed.
	Active *Registration `json:"active,omitempty"`
	// Waiting is proven, but a person has to approve it before it becomes Active.
	Waiting *Waiting `json:"waiting,omitempty"`
	// Challenges are registrations of which nothing is proven, oldest first. They claim nothing: neither the id nor the EK.
	Challenges []Challenge `json:"challenges,omitempty"`
	// Count is the number of changes of identity, 1 after the first activation (Keylime's regcount).
	Count int `json:"count"`
}

// Registration is what an agent said of itself, with what was found out about it.
type Registration struct {
	// EK and AK are TPM2B_PUBLIC structures.
	EK []byte `json:"ek"`
	AK []byte `json:"ak"`
	// Chain holds the EK certificate and its issuers as DER, leaf first; empty without a certificate.
	Chain [][]byte `json:"chain,omitempty"`
	// Address and Port are where the agent says that it answers: text of any form, never a proof.
	Address string `json:"address,omitempty"`
	Port    int    `json:"port,omitempty"`
	// Certificate is the agent's server certificate in PEM, or "disabled", or empty.
	Certificate string `json:"certificate,omitempty"`
	// EndorsedBy is the subject of the vendor root that the chain led to when the agent registered; NotEndorsed is the reason
	// why it led to none. Exactly one of them is set.
	EndorsedBy  string `json:"endorsedBy,omitempty"`
	NotEndorsed string `json:"notEndorsed,omitempty"`
	// Token is the id of the join token that was redeemed for the agent's name.
	Token string    `json:"token,omitempty"`
	At    time.Time `json:"at"`
}

// Waiting is a proven registration that a person has to approve.
type Waiting struct {
	Registration Registration `json:"registration"`
	Reason       string       `json:"reason"`
	Expires      time.Time    `json:"expires"`
}

// Challenge is a registration with the secret that only the TPM of its EK can read, and only for its AK.
type Challenge struct {
	Registration Registration `json:"registration"`
	Secret       []byte       `json:"secret"`
	Expires      time.Time    `json:"expires"`
	// From is the address that it was asked from: an IPv4 address or the /64 of an IPv6 one; "" where there was none.
	From string `json:"from,omitempty"`
}

// State selects records in List. A record may be in several states at once.
type State int

// The states: Active has Record.Active, AwaitsApproval has Record.Waiting.
const (
	Active State = iota
	AwaitsApproval
)

// Counts says how many records there are of the kinds whose number is bounded.
type Counts struct {
	// Unproven records have only Challenges, Waiting ones have Waiting, Unendorsed ones have an Active with NotEndorsed.
	Unproven, Waiting, Unendorsed int
}

// Store keeps records. It owns no rule but the uniqueness of ids and proven EKs. Records passed in and out are copies: changing one
// changes nothing stored. All methods may be called at the same time.
type Store interface {
	// Get returns the record of an id, or an error that wraps ErrNotFound.
	Get(ctx context.Context, id attest.AgentID) (Record, error)
	// ByEK returns the record that holds a proven EK, or an error that wraps ErrNotFound.
	ByEK(ctx context.Context, ek attest.AgentID) (Record, error)
	// Update reads, changes and writes one record in one transaction; two updates of one id never overlap. change gets nil for an
	// absent record; it may change what it gets and returns what is to be stored; nil deletes. It may be called again when the
	// transaction has to be repeated, so it has no effects outside of what it returns. Its error comes back (errors.Is holds) and nothing is stored.
	// ErrEKTaken: another record has the same EK; nothing is stored.
	Update(ctx context.Context, id attest.AgentID, change func(old *Record) (*Record, error)) error
	// List returns at most limit records of a state with ids after the given one, in the byte order of ids.
	List(ctx context.Context, state State, after attest.AgentID, limit int) ([]Record, error)
	// Sweep drops each Challenge and Waiting whose Expires is not after now and deletes the records that have nothing left. A record whose
	// Active is nil and whose Waiting goes loses its EK. It returns what remains.
	Sweep(ctx context.Context, now time.Time) (Counts, error)
	// Displace makes room for an unproven record that somebody at an address asks for. An unproven record counts for the Challenge.From of its
	// first challenge. Where no address has more of them than from, it changes nothing; otherwise it takes, of the address that has most, the record
	// whose first challenge expires first, and drops its challenges from there. It goes on until a record has nothing left and is deleted, or
	// until this has been done often enough for one call; gone says whether one was deleted.
	Displace(ctx context.Context, from string) (gone bool, err error)
}

// ErrToken says that a join token is unknown, expired, redeemed by another agent, or that its secret is wrong.
var ErrToken = errors.New("the join token is not valid")

// Tokens redeems join tokens.
type Tokens interface {
	// Redeem binds a token to an agent, for good. Redeeming it again for the same agent succeeds as long as the token has not expired.
	// An error that wraps ErrToken says that the token does not hold, every other error that this could not be found out.
	Redeem(ctx context.Context, token string, secret []byte, agent attest.AgentID) error
}

package verifier

import (
	"context"
	"errors"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/reaction"
	"github.com/assay-project/assay/verifier/machine"
)

// Sentinel errors of a store; the HTTP table maps them to statuses.
var (
	// ErrNotFound: no such node, policy, boot or quote.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the row is not at the version that the writer read. The loser drops its round and reads again.
	ErrConflict = errors.New("changed by someone else meanwhile")
	// ErrExists: the name is taken by other content.
	ErrExists = errors.New("exists already")
	// ErrInUse: something still refers to it.
	ErrInUse = errors.New("in use")
	// ErrExpired: it was kept for as long as the configuration says, and removed then.
	ErrExpired = errors.New("kept no longer")
)

// Node is an enrolled agent: who it is, what applies to it and where the machine stands.
type Node struct {
	ID        attest.AgentID `json:"id"`
	Enrolment Enrolment      `json:"enrolment"`
	// Policies are the documents assigned to the node, in the order of assignment.
	Policies []attest.PolicyRef `json:"policies"`
	// Interval between rounds; 0 means the server's.
	Interval time.Duration `json:"interval"`
	// Assignment is what the owner of the policies decided beside them.
	Assignment api.Assignment `json:"assignment"`
	State      machine.State  `json:"state"`
	// Version counts the writes of this row, from 1; the store sets it.
	Version uint64 `json:"-"`
}

// Enrolment is what was known and checked when a person (or the operator) enrolled the agent.
type Enrolment struct {
	// AK and EK are TPM2B_PUBLIC structures as the registrar had them.
	AK []byte `json:"ak"`
	EK []byte `json:"ek"`
	// EndorsedBy is the subject of the vendor root that the EK certificate leads to; empty with FirstUse.
	EndorsedBy string `json:"endorsedBy,omitempty"`
	// EndorsedRoot is the fingerprint of that root; Emulated says that it endorses emulators.
	EndorsedRoot attest.Digest `json:"endorsedRoot,omitzero"`
	Emulated     bool          `json:"emulated,omitempty"`
	// FirstUse: enrolled without an endorsement, by a person's word.
	FirstUse bool `json:"firstUse,omitempty"`
	// Address and Port are where the pull agent answers; Certificate is its pinned PEM certificate. They follow the registrar's record,
	// but for an address or a port that a person fixed at enrolment.
	Address      string    `json:"address"`
	Port         int       `json:"port"`
	Certificate  string    `json:"certificate"`
	FixedAddress bool      `json:"fixedAddress,omitempty"`
	FixedPort    bool      `json:"fixedPort,omitempty"`
	At           time.Time `json:"at"`
	// Reimage says what becomes of a new AK of the EK; empty is the server's setting.
	Reimage api.Reimage `json:"reimage,omitempty"`
	// Former are the AKs that gave way to others, newest first, 8 at most: quotes of theirs are still kept.
	Former [][]byte `json:"former,omitempty"`
}

// Commit is everything that one step wants to be durable, all of it or nothing.
type Commit struct {
	// Node is the row to write. Expect is the version it was read at; 0 inserts.
	Node   Node
	Expect uint64
	// Transition is appended when the verdict changed.
	Transition *machine.Transition
	// Chunks are the entries accepted since the last commit; a chunk starts where the stored list of its boot ends.
	// A chunk that starts at 0 replaces the boot's stored list (a person's reattest judges from the start).
	Chunks []machine.Chunk
	// Quotes replace the node's last accepted quote with the last of them; one that a transition names is kept for good.
	Quotes []machine.StoredQuote
	// BootLog is the event log of Node.State.Boot when it is new.
	BootLog []byte
	// Reaction is what the node's new state asks for, nil for nothing: the store settles it (reaction.Settle) in the same transaction.
	Reaction *reaction.Want
}

// Store keeps nodes. A write is refused with ErrConflict unless the row still has the expected version.
type Store interface {
	// Node returns one node or ErrNotFound.
	Node(ctx context.Context, id attest.AgentID) (Node, error)
	// Nodes returns at most limit nodes with ids after the given one, in the order of ids.
	Nodes(ctx context.Context, after attest.AgentID, limit int) ([]Node, error)
	// Commit writes one step and returns the row's new version. ErrConflict, ErrExists (insert of a present id). One that brings the node
	// into another boot ends, at State.BootSince, the boots that it has other evidence of.
	Commit(ctx context.Context, c Commit) (uint64, error)
	// RemoveNode deletes the node with its evidence, and settles its reactions as no longer wanted; ErrNotFound, ErrConflict.
	RemoveNode(ctx context.Context, id attest.AgentID, expect uint64) error
}

// EvidenceStore reads what Commit wrote.
type EvidenceStore interface {
	// List returns the stored list of a boot, whole and in order; ErrNotFound when there is none.
	List(ctx context.Context, id attest.AgentID, boot string) (machine.Chunk, error)
	// BootLog returns the stored event log of a boot, or ErrNotFound.
	BootLog(ctx context.Context, id attest.AgentID, boot string) ([]byte, error)
	// Quote returns a stored quote; the zero digest asks for the last accepted one. ErrNotFound; ErrExpired for one that a transition
	// names and that is kept no longer.
	Quote(ctx context.Context, id attest.AgentID, digest attest.Digest) (machine.StoredQuote, error)
	// Transitions returns at most limit transitions of a node with a Seq above after, oldest first.
	Transitions(ctx context.Context, id attest.AgentID, after uint64, limit int) ([]machine.Transition, error)
}

// Expired counts what one call of RetentionStore deleted: parts of lists, and boots of which nothing is left.
type Expired struct{ Boots, Parts int }

// RetentionStore takes away what was kept long enough.
type RetentionStore interface {
	// ExpireEvidence deletes lists, quotes and boot log of one boot that ended at the given time or before, and of its list at most limit
	// parts, the last ones first; so it is called until nothing was deleted. It never touches the boot that a node is in, nor that of its
	// last accepted quote. Transitions stay, and name quotes that are gone.
	ExpireEvidence(ctx context.Context, endedBy time.Time, limit int) (Expired, error)
	// ExpireTokens deletes at most limit join tokens that expired at the given time or before, and returns how many.
	ExpireTokens(ctx context.Context, expiredBy time.Time, limit int) (int, error)
}

// StoredPolicy is an immutable policy document.
type StoredPolicy struct {
	Ref   attest.PolicyRef `json:"ref"`
	Bytes []byte           `json:"-"`
	Size  int64            `json:"size"`
	Added time.Time        `json:"added"`
}

// PolicyStore keeps policy documents. A document is named by its digest; several digests may carry one name, the newest is the name's.
type PolicyStore interface {
	// AddPolicy stores a document; adding the same bytes again changes nothing.
	AddPolicy(ctx context.Context, p StoredPolicy) error
	// Policy finds a document with its bytes by digest ("sha256:..."), or the newest one by name; ErrNotFound.
	Policy(ctx context.Context, nameOrDigest string) (StoredPolicy, error)
	// Policies lists documents without their bytes, oldest first, after the given digest.
	Policies(ctx context.Context, after attest.Digest, limit int) ([]StoredPolicy, error)
	// RemovePolicy deletes a document; ErrInUse while a node has it assigned.
	RemovePolicy(ctx context.Context, digest attest.Digest) error
}

// Root is a certificate that endorses EKs.
type Root struct {
	Fingerprint attest.Digest `json:"fingerprint"` // SHA-256 of the DER bytes
	Subject     string        `json:"subject"`
	NotAfter    time.Time     `json:"notAfter"`
	PEM         []byte        `json:"-"`
	Added       time.Time     `json:"added"`
	// Origin says where it came from: a file name, or "bundled".
	Origin string `json:"origin"`
	// Emulated: it endorses TPM emulators, and counts only where an assignment names it.
	Emulated bool `json:"emulated,omitempty"`
}

// RootStore keeps the vendor roots and intermediates that endorse EKs.
type RootStore interface {
	// AddRoot stores a certificate; adding it again changes nothing.
	AddRoot(ctx context.Context, r Root) error
	// Roots returns all of them, in the order of subjects.
	Roots(ctx context.Context) ([]Root, error)
	// RemoveRoot deletes one; ErrNotFound.
	RemoveRoot(ctx context.Context, fingerprint attest.Digest) error
}

// Token is a join token as it is kept: without its secret.
type Token struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	// Agent is who redeemed it; empty while it is unused.
	Agent attest.AgentID `json:"agent,omitempty"`
	// SecretDigest is the SHA-256 digest of the secret (16 random bytes or more, so no salt is needed).
	SecretDigest attest.Digest `json:"-"`
}

// TokenStore keeps join tokens.
type TokenStore interface {
	// AddToken stores a new token; ErrExists when its id is taken.
	AddToken(ctx context.Context, t Token) error
	// Tokens returns all of them, oldest first.
	Tokens(ctx context.Context) ([]Token, error)
	// RevokeToken deletes one; ErrNotFound.
	RevokeToken(ctx context.Context, id string) error
}

// Binding says which Kubernetes node is an agent's: one EK, one Node (C5).
type Binding struct {
	Agent attest.AgentID
	Node  api.KubernetesNode
	At    time.Time
}

// BindingStore keeps bindings. An agent has one at most, and so has the name of a node.
type BindingStore interface {
	// Bind stores a binding in the place of the agent's and of the node name's former ones.
	Bind(ctx context.Context, b Binding) error
	// BindingOf returns the binding of an agent, BindingFor that of a node name; ErrNotFound.
	BindingOf(ctx context.Context, agent attest.AgentID) (Binding, error)
	BindingFor(ctx context.Context, nodeName string) (Binding, error)
	// Unbind deletes the binding of an agent, if there is one.
	Unbind(ctx context.Context, agent attest.AgentID) error
}

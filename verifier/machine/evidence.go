package machine

import (
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
)

// Request is what a round asks an agent for.
type Request struct {
	// Nonce is 20 letters and digits; the agent quotes its ASCII bytes.
	Nonce     string
	Selection pcr.Selection
	// Offset is the list position from which entries are wanted; Full asks for the transport key as well.
	Offset uint64
	Full   bool
}

// Answer is what an agent answered: claims, all of them.
type Answer struct {
	// Quote is Keylime's packed quote.
	Quote string
	// TransportKey is the PEM key, "" when the agent sent none.
	TransportKey string
	// List is the measurement list in ASCII from position First on, when HasList.
	List    []byte
	HasList bool
	First   uint64
	// BootLog is the TCG event log, nil when the agent sent none.
	BootLog []byte
}

// Stored is the whole evidence of a boot as it was accepted.
type Stored struct {
	Quote   StoredQuote
	List    []byte
	BootLog []byte
}

// Transition is one change of a node's verdict with its reasons: an append-only row.
type Transition struct {
	// Seq counts a node's transitions from 1; the machine sets it (State.Seq), and the store refuses one that is taken.
	Seq      uint64             `json:"seq"`
	Node     attest.AgentID     `json:"node"`
	At       time.Time          `json:"at"`
	From     attest.Verdict     `json:"from"`
	To       attest.Verdict     `json:"to"`
	Boot     string             `json:"boot"`
	Policies []attest.PolicyRef `json:"policies"`
	Failures []attest.Failure   `json:"failures"`
	// Quote is the digest of the stored quote behind the transition; zero when no quote is behind it.
	Quote attest.Digest `json:"quote"`
	// Cause is a word for people: round, reboot, policy, reattest, pause, resume, enrol, reimage, cordon, uncordon. Detail says more where there is more to
	// say: the names of both AKs of a reimage.
	Cause  string `json:"cause"`
	Detail string `json:"detail,omitempty"`
}

// StoredQuote is an accepted quote as it came, with what is needed to verify it again.
type StoredQuote struct {
	// Digest is quote.Verified.Digest: SHA-256 of the TPMS_ATTEST bytes.
	Digest attest.Digest  `json:"digest"`
	Node   attest.AgentID `json:"node"`
	Boot   string         `json:"boot"`
	At     time.Time      `json:"at"`
	Nonce  string         `json:"nonce"`
	// Packed is Keylime's packed quote, Bank and Mask the selection that was asked for.
	Packed string      `json:"packed"`
	Bank   attest.Hash `json:"bank"`
	Mask   uint32      `json:"mask"`
	// Position is the list position that the quote covers.
	Position uint64 `json:"position"`
}

// Chunk is a run of measurement list entries in the order of the kernel's list, kept by content.
type Chunk struct {
	Boot string `json:"boot"`
	// First is the absolute position of the first entry, Count the number of entries.
	First uint64 `json:"first"`
	Count uint64 `json:"count"`
	// ASCII holds the entries in the kernel's ASCII form.
	ASCII []byte `json:"-"`
}

// Selection is the selection that stored evidence was asked with.
func (q StoredQuote) Selection() pcr.Selection { return pcr.Selection{Bank: q.Bank, Mask: q.Mask} }

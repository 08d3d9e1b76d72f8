package api

import (
	"time"

	"github.com/assay-project/assay/attest"
)

// Paths of the native API. {id} is an agent's id, {digest} a digest "sha256:hex".
const (
	PathNodes        = "/api/v1/nodes"
	PathPolicies     = "/api/v1/policies"
	PathEndorsements = "/api/v1/endorsements"
	PathTokens       = "/api/v1/tokens"
	PathCertificates = "/api/v1/certificates"
	PathPending      = "/api/v1/pending"
	PathRegistered   = "/api/v1/registered"
	PathWatch        = "/api/v1/watch"
	PathServer       = "/api/v1/server"
	PathOpenAPI      = "/api/v1/openapi.json"
)

// MaxPage bounds the items of a page; a request without a limit gets DefaultPage.
const (
	MaxPage     = 500
	DefaultPage = 100
)

// Page is a page of a list. Next is the cursor of the following page, "" on the last one.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// Problem is the body of every answer with a status of 400 and up.
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

// Node is an enrolled machine with its verdict.
type Node struct {
	ID      attest.AgentID `json:"id"`
	Verdict attest.Verdict `json:"verdict"`
	// Since is when the verdict last changed.
	Since    time.Time        `json:"since"`
	Failures []attest.Failure `json:"failures"`
	// QuoteBacked says that a verified quote stands behind a Failed verdict.
	QuoteBacked bool `json:"quoteBacked"`
	// Assigned are the documents that apply, Appraised those that the verdict was made with.
	Assigned  []attest.PolicyRef `json:"assigned"`
	Appraised []attest.PolicyRef `json:"appraised"`
	// Boot names this boot, BootSince is when its first quote was accepted.
	Boot      string    `json:"boot,omitempty"`
	BootSince time.Time `json:"bootSince,omitzero"`
	// Position is the number of list entries that are proven, Pending the number of those shown beyond the last quote.
	Position uint64 `json:"position"`
	Pending  uint64 `json:"pending"`
	// Accepted and Refused count rounds since enrolment.
	Accepted     uint64    `json:"accepted"`
	Refused      uint64    `json:"refused"`
	LastAccepted time.Time `json:"lastAccepted,omitzero"`
	LastTried    time.Time `json:"lastTried,omitzero"`
	// Trouble is why the last round was not accepted.
	Trouble *attest.Failure `json:"trouble,omitempty"`
	// Interval between rounds, in seconds.
	Interval float64 `json:"interval"`
	Paused   bool    `json:"paused"`
	// Cordoned: the Kubernetes node is unschedulable, as the operator says. Muted is the mute that this brings, nil where none is in force.
	Cordoned bool  `json:"cordoned,omitempty"`
	Muted    *Mute `json:"muted,omitempty"`
	// TpmPresent is false for an agent without a TPM, which is not enrolled and Unappraised for the Reason NoTpm (C3).
	TpmPresent bool   `json:"tpmPresent"`
	Reason     string `json:"reason,omitempty"`
	// KubernetesNode is the node that the operator found to be the agent's (Claim).
	KubernetesNode *KubernetesNode `json:"kubernetesNode,omitempty"`
	// Assignment is what the owner of the node's policies decided beside the documents.
	Assignment Assignment `json:"assignment"`
	// IMAPolicy: the evidence of this boot shows that the kernel loaded an IMA policy that the documents approve. Another one beside it, or files
	// measured before it, are failures (ImaPolicyNotApproved).
	IMAPolicy bool `json:"imaPolicy,omitempty"`
	// Coverage names what the verdict does not cover: CoverageContainerFilesIgnored.
	Coverage []string `json:"coverage"`
	// Readmission is set while a failed machine waits for a person's approval.
	Readmission *Readmission `json:"readmission,omitempty"`
	// Enrolment: who vouches for the EK; FirstUse when nobody does, Emulated when the root is an emulator's: then the TPM proves nothing about hardware.
	EndorsedBy string `json:"endorsedBy,omitempty"`
	FirstUse   bool   `json:"firstUse,omitempty"`
	// Endorsement is Vendor, Listed (a person listed the EK) or FirstUse.
	Endorsement string    `json:"endorsement,omitempty"`
	Emulated    bool      `json:"emulated,omitempty"`
	Enrolled    time.Time `json:"enrolled"`
	Address     string    `json:"address"`
	Port        int       `json:"port"`
	// Registration is why a registration of the agent waits for a person. It is told of one node, in lists only as far as the verifier knows it.
	Registration string `json:"registration,omitempty"`
	// KeylimeState is the number that Keylime's clients would see.
	KeylimeState int `json:"keylimeState"`
	// Heartbeat is what the agent last said of itself; nothing in it is proven.
	Heartbeat *AgentReport `json:"heartbeat,omitempty"`
}

// ReasonNoTpm is the Reason of a node without a TPM.
const ReasonNoTpm = "NoTpm"

// AgentReport is what an agent said over its session: unproven, for people.
type AgentReport struct {
	At        time.Time        `json:"at"`
	Heartbeat Heartbeat        `json:"heartbeat"`
	Preflight []PreflightCheck `json:"preflight,omitempty"`
}

// EnrolRequest enrols a registered agent: POST PathNodes.
type EnrolRequest struct {
	ID attest.AgentID `json:"id"`
	// Policies are names or digests of stored documents.
	Policies []string `json:"policies,omitempty"`
	// Interval between rounds in seconds, 1 at the least; 0 means the server's.
	Interval float64 `json:"interval,omitempty"`
	// FirstUse accepts an EK that no vendor root endorses, where the server allows it.
	FirstUse bool `json:"firstUse,omitempty"`
	// Address and Port hold whatever the agent registers, now and later.
	Address string `json:"address,omitempty"`
	Port    int    `json:"port,omitempty"`
	// Assignment is the operator's; a person may leave its owner and reactions empty.
	Assignment *Assignment `json:"assignment,omitempty"`
}

// NodeUpdate changes what applies to a node: PATCH PathNodes/{id}. Absent members stay as they are; an assignment is replaced as a whole.
// While the assignment has an owner, only the operator may: 409 names the owner.
type NodeUpdate struct {
	Policies   *[]string   `json:"policies,omitempty"`
	Interval   *float64    `json:"interval,omitempty"`
	Assignment *Assignment `json:"assignment,omitempty"`
}

// Cordon says whether the Kubernetes node of a machine is cordoned: PUT PathNodes/{id}/cordon, by the operator. Since is when it was at the
// latest; zero is now.
type Cordon struct {
	Cordoned bool      `json:"cordoned"`
	Since    time.Time `json:"since,omitzero"`
}

// Mute keeps a verdict that would be Stale what it was, until a time that no cordon moves on. Stale says that it would be. It never hides
// a Failed.
type Mute struct {
	Until time.Time `json:"until"`
	Stale bool      `json:"stale"`
}

// Transition is one change of a node's verdict: an item of PathNodes/{id}/results and an event of PathWatch.
type Transition struct {
	Node attest.AgentID `json:"node"`
	Seq  uint64         `json:"seq"`
	At   time.Time      `json:"at"`
	From attest.Verdict `json:"from"`
	To   attest.Verdict `json:"to"`
	Boot string         `json:"boot,omitempty"`
	// Cause is a word; Detail says more of a reimage: the names of the AK that went and of the one that came.
	Cause    string             `json:"cause"`
	Detail   string             `json:"detail,omitempty"`
	Policies []attest.PolicyRef `json:"policies"`
	Failures []attest.Failure   `json:"failures"`
	Quote    attest.Digest      `json:"quote"`
}

// Evidence is the last accepted evidence of a node, or that of an older quote: PathNodes/{id}/evidence.
type Evidence struct {
	Node  attest.AgentID `json:"node"`
	Boot  string         `json:"boot"`
	At    time.Time      `json:"at"`
	Nonce string         `json:"nonce"`
	// Quote is Keylime's packed quote, AK the TPM2B_PUBLIC that signed it: one that the machine had before, where the quote is as old.
	// Digest names the quote, as Transition.Quote does.
	Quote  string        `json:"quote"`
	Digest attest.Digest `json:"digest"`
	AK     []byte        `json:"ak"`
	// EK is the enrolled endorsement key as TPM2B_PUBLIC, Chain its certificates as DER, leaf first, where the registrar has any.
	EK    []byte   `json:"ek"`
	Chain [][]byte `json:"chain,omitempty"`
	// Position is how many entries of the list the quote covers; the list may go on beyond it.
	Position uint64 `json:"position"`
	// Policies are the documents that the verdict was made with. RefusedIMAPolicies count as approved by none of them.
	Policies           []attest.PolicyRef `json:"policies"`
	RefusedIMAPolicies []attest.Digest    `json:"refusedIMAPolicies,omitempty"`
	// List is the proven measurement list of this boot in ASCII, BootLog the TCG event log. ListBytes holds the list's exact bytes where they
	// are not UTF-8, as names of files need not be.
	List      string `json:"list,omitempty"`
	ListBytes []byte `json:"listBytes,omitempty"`
	BootLog   []byte `json:"bootLog,omitempty"`
}

// Policy is a stored policy document.
type Policy struct {
	Kind   string        `json:"kind"`
	Name   string        `json:"name"`
	Digest attest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	Added  time.Time     `json:"added"`
	// Warnings are what an author should know of a document that is valid; set in the answer to adding it.
	Warnings []string `json:"warnings,omitempty"`
}

// Root is a certificate that endorses EKs.
type Root struct {
	Fingerprint attest.Digest `json:"fingerprint"`
	Subject     string        `json:"subject"`
	NotAfter    time.Time     `json:"notAfter"`
	Added       time.Time     `json:"added"`
	Origin      string        `json:"origin"`
	// Emulated says that the root endorses TPM emulators. An assignment has to name it (EndorsedBy), or nothing that it endorses passes.
	Emulated bool `json:"emulated,omitempty"`
}

// RootsAdded answers POST PathEndorsements, whose body is PEM.
type RootsAdded struct {
	Added []Root `json:"added"`
}

// EndorsementCheck says whether a registered agent's EK is endorsed: GET PathEndorsements/check/{id}.
type EndorsementCheck struct {
	Agent      attest.AgentID `json:"agent"`
	EK         attest.AgentID `json:"ek"`
	Endorsed   bool           `json:"endorsed"`
	EndorsedBy string         `json:"endorsedBy,omitempty"`
	// Label is Vendor, or Listed where a person listed the EK and no vendor vouches for it.
	Label string `json:"label,omitempty"`
	// Emulated: the root that vouches for it endorses emulators.
	Emulated bool             `json:"emulated,omitempty"`
	Failures []attest.Failure `json:"failures"`
}

// TokenRequest makes a join token: POST PathTokens. Lifetime in seconds; 0 means a day.
type TokenRequest struct {
	Lifetime float64 `json:"lifetime,omitempty"`
}

// TokenCreated holds the token's text; it is shown this once.
type TokenCreated struct {
	Token
	Text string `json:"text"`
}

// Token is a join token without its secret.
type Token struct {
	ID      string         `json:"id"`
	Created time.Time      `json:"created"`
	Expires time.Time      `json:"expires"`
	Agent   attest.AgentID `json:"agent,omitempty"`
}

// CertificateRequest asks for a client certificate: POST PathCertificates. Request is a PKCS #10 request in PEM; only its key is used.
type CertificateRequest struct {
	Role    string `json:"role"`
	Name    string `json:"name"`
	Request string `json:"request"`
	// Lifetime in seconds; 0 means 90 days.
	Lifetime float64 `json:"lifetime,omitempty"`
}

// Certificate is the answer: the certificate and the servers' CA, both PEM.
type Certificate struct {
	Certificate string `json:"certificate"`
	ServerCA    string `json:"serverCA"`
}

// Pending is a registration that waits for a person: GET PathPending; POST PathPending/{id}/approve lets it in.
type Pending struct {
	Agent    attest.AgentID `json:"agent"`
	EK       attest.AgentID `json:"ek"`
	Reason   string         `json:"reason"`
	At       time.Time      `json:"at"`
	Endorsed bool           `json:"endorsed"`
}

// Registered is an agent that registered and proved its keys: GET PathRegistered.
type Registered struct {
	Agent    attest.AgentID `json:"agent"`
	Enrolled bool           `json:"enrolled"`
}

// Server says who answers: GET PathServer.
type Server struct {
	Version  string   `json:"version"`
	Roles    []string `json:"roles"`
	Interval float64  `json:"interval"`
	// You are the caller's name and role.
	Name string `json:"name"`
	Role string `json:"role"`
	// Database is what is wrong with the server's database; empty while it can be read and written.
	Database string `json:"database,omitempty"`
}

package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/machine"
)

// Stores is one empty database under test.
type Stores struct {
	Nodes     verifier.Store
	Evidence  verifier.EvidenceStore
	Policies  verifier.PolicyStore
	Roots     verifier.RootStore
	Tokens    verifier.TokenStore
	Bindings  verifier.BindingStore
	Reactions verifier.ReactionStore
	Keys      verifier.KeyStore
	Distrust  verifier.DistrustStore
	Retention verifier.RetentionStore
}

// Run tests the whole contract. open returns an empty database, which it closes with t.Cleanup.
func Run(t *testing.T, open func(t testing.TB) Stores) {
	contracts := map[string]map[string]func(*testing.T, Stores){
		"Nodes": nodeContract(), "Transitions": transitionContract(), "Lists": listContract(), "Quotes": quoteContract(),
		"BootLogs": bootLogContract(), "Removal": removalContract(), "Policies": policyContract(), "Roots": rootContract(), "Tokens": tokenContract(),
		"Bindings": bindingContract(), "Reactions": reactionContract(), "Words": wordContract(),
		"Retention": retentionContract(),
	}
	for noun, rules := range contracts {
		for rule, check := range rules {
			t.Run(noun+"/"+rule, func(t *testing.T) { check(t, open(t)) })
		}
	}
}

// start is a time with nanoseconds: stores keep them.
var start = time.Date(2026, 11, 20, 15, 4, 5, 123456789, time.UTC)

func digestOf(text string) attest.Digest { return attest.SHA256.Sum([]byte(text)) }

// node is a node with something in every member.
func node(id attest.AgentID) verifier.Node {
	return verifier.Node{
		ID: id,
		Enrolment: verifier.Enrolment{
			AK: []byte("ak of " + id), EK: []byte("ek of " + id), EndorsedBy: "CN=Vendor", Address: "fe80::1%eth0",
			Port: 9002, Certificate: "-----BEGIN CERTIFICATE-----\n", At: start,
		},
		Interval: 1500 * time.Millisecond,
		State: machine.State{
			Verdict: attest.Failed, Shown: attest.Failed, Since: start, Seq: 1, QuoteBacked: true,
			Failures: []attest.Failure{attest.Fail(attest.FileNotInPolicy, "a \x1b[31m name <b>, \u2028 and \U0001F600")},
			Boot:     "boot-1", BootSince: start, Clock: &quote.Clock{Clock: 1<<64 - 1, ResetCount: 1<<32 - 1, RestartCount: 2, Safe: true},
			TransportKey: "PEM", BootLog: digestOf("log"), Enrolled: start, LastAccepted: start.Add(time.Second), Accepted: 7, Refused: 2,
		},
	}
}

// insert writes a node for the first time and returns it with its version.
func insert(t *testing.T, s Stores, n verifier.Node) verifier.Node {
	t.Helper()
	return commit(t, s, verifier.Commit{Node: n})
}

// commit writes c at the version of its node and returns the node at its new version.
func commit(t *testing.T, s Stores, c verifier.Commit) verifier.Node {
	t.Helper()
	c.Expect = c.Node.Version
	version, err := s.Nodes.Commit(t.Context(), c)
	if err != nil {
		t.Fatalf("commit node %q at version %d: %v", c.Node.ID, c.Expect, err)
	}
	if version != c.Expect+1 {
		t.Fatalf("commit at version %d made version %d", c.Expect, version)
	}
	c.Node.Version = version
	return c.Node
}

// refused commits c at the version of its node and expects an error that changes nothing.
func refused(t *testing.T, s Stores, c verifier.Commit, why string) error {
	t.Helper()
	c.Expect = c.Node.Version
	_, err := s.Nodes.Commit(t.Context(), c)
	if err == nil {
		t.Fatalf("%s was accepted", why)
	}
	have, readErr := s.Nodes.Node(t.Context(), c.Node.ID)
	if readErr != nil {
		t.Fatalf("after %s: %v", why, readErr)
	}
	if have.Version != c.Expect {
		t.Fatalf("%s was refused, but wrote version %d", why, have.Version)
	}
	return err
}

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(attest.Digest{})); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// listing is a kind of rows that are listed all at once and removed one by one.
type listing[Row, Key any] struct {
	what   string
	rows   func(context.Context) ([]Row, error)
	remove func(context.Context, Key) error
}

// loses expects all rows, and the rest of them once the one of a key is removed, which it can be only once.
func (l listing[Row, Key]) loses(t *testing.T, key Key, all, rest []Row) {
	t.Helper()
	have := func() []Row {
		t.Helper()
		rows, err := l.rows(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
	same(t, l.what, all, have())
	if err := l.remove(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if err := l.remove(t.Context(), key); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("%s: remove it again: %v, want ErrNotFound", l.what, err)
	}
	same(t, l.what+" after a removal", rest, have())
}

func numbered(format string, count int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprintf(format, i)
	}
	return names
}

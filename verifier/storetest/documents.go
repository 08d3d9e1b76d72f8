package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier"
)

func policyContract() map[string]func(*testing.T, Stores) {
	return map[string]func(*testing.T, Stores){
		"AreFoundByDigestAndByName": policiesAreFound,
		"NeverChange":               policiesNeverChange,
		"ArePagedOldestFirst":       policiesArePaged,
		"InUseStay":                 policiesInUseStay,
	}
}

func document(name, text string) verifier.StoredPolicy {
	return verifier.StoredPolicy{
		Ref: attest.PolicyRef{Kind: "Runtime", Name: name, Digest: digestOf(text)}, Bytes: []byte(text), Size: int64(len(text)), Added: start,
	}
}

// addPolicies stores a document for each name and returns their references.
func addPolicies(t *testing.T, s Stores, names ...string) []attest.PolicyRef {
	t.Helper()
	var refs []attest.PolicyRef
	for _, name := range names {
		p := document(name, "text of "+name)
		if err := s.Policies.AddPolicy(t.Context(), p); err != nil {
			t.Fatalf("add policy %q: %v", name, err)
		}
		refs = append(refs, p.Ref)
	}
	return refs
}

func policiesAreFound(t *testing.T, s Stores) {
	older, newer, other := document("base", "one\x00"), document("base", "two"), document("other", "three")
	for _, p := range []verifier.StoredPolicy{older, newer, other} {
		if err := s.Policies.AddPolicy(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]verifier.StoredPolicy{
		"base": newer, "other": other, older.Ref.Digest.String(): older, newer.Ref.Digest.String(): newer,
	} {
		got, err := s.Policies.Policy(t.Context(), name)
		if err != nil {
			t.Fatalf("policy %q: %v", name, err)
		}
		same(t, "policy "+name, want, got)
	}
	for _, name := range []string{"", "none", digestOf("none").String()} {
		if _, err := s.Policies.Policy(t.Context(), name); !errors.Is(err, verifier.ErrNotFound) {
			t.Errorf("policy %q: %v, want ErrNotFound", name, err)
		}
	}
}

// Adding the same bytes again neither changes the document nor makes it the newest of its name.
func policiesNeverChange(t *testing.T, s Stores) {
	older, newer := document("base", "one"), document("base", "two")
	again := older
	again.Added, again.Ref.Name = start.Add(time.Hour), "base"
	for _, p := range []verifier.StoredPolicy{older, newer, again} {
		if err := s.Policies.AddPolicy(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Policies.Policy(t.Context(), older.Ref.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	same(t, "document that was added twice", older, got)
	if got, err = s.Policies.Policy(t.Context(), "base"); err != nil {
		t.Fatal(err)
	}
	same(t, "newest of the name", newer, got)
}

func policiesArePaged(t *testing.T, s Stores) {
	want := addPolicies(t, s, numbered("policy-%d", 5)...)
	var got []attest.PolicyRef
	var after attest.Digest
	for {
		page, err := s.Policies.Policies(t.Context(), after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range page {
			got, after = append(got, p.Ref), p.Ref.Digest
			if p.Bytes != nil || p.Size == 0 {
				t.Errorf("policy %q of a list has %d of %d bytes", p.Ref.Name, len(p.Bytes), p.Size)
			}
		}
		if len(page) < 2 {
			break
		}
	}
	same(t, "policies in pages of 2", want, got)
}

func policiesInUseStay(t *testing.T, s Stores) {
	refs := addPolicies(t, s, "used", "free")
	n := node("node-1")
	n.Policies = refs[:1]
	n = insert(t, s, n)
	if err := s.Policies.RemovePolicy(t.Context(), refs[0].Digest); !errors.Is(err, verifier.ErrInUse) {
		t.Errorf("remove a policy that a node has: %v, want ErrInUse", err)
	}
	if err := s.Policies.RemovePolicy(t.Context(), refs[1].Digest); err != nil {
		t.Errorf("remove a policy that no node has: %v", err)
	}
	if err := s.Policies.RemovePolicy(t.Context(), refs[1].Digest); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("remove it again: %v, want ErrNotFound", err)
	}
	n.Policies = nil
	commit(t, s, verifier.Commit{Node: n})
	if err := s.Policies.RemovePolicy(t.Context(), refs[0].Digest); err != nil {
		t.Errorf("remove a policy that no node has any more: %v", err)
	}
}

func rootContract() map[string]func(*testing.T, Stores) {
	return map[string]func(*testing.T, Stores){"AreASet": rootsAreASet}
}

func rootsAreASet(t *testing.T, s Stores) {
	root := func(subject string) verifier.Root {
		return verifier.Root{
			Fingerprint: digestOf(subject), Subject: subject, NotAfter: start.AddDate(30, 0, 0), PEM: []byte("PEM of " + subject), Added: start, Origin: "file",
		}
	}
	a, b := root("CN=A"), root("CN=B")
	again := a
	again.Origin, again.Added = "another file", start.Add(time.Hour)
	for _, r := range []verifier.Root{b, a, again} {
		if err := s.Roots.AddRoot(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	listing[verifier.Root, attest.Digest]{"roots", s.Roots.Roots, s.Roots.RemoveRoot}.loses(t, a.Fingerprint, []verifier.Root{a, b}, []verifier.Root{b})
}

func tokenContract() map[string]func(*testing.T, Stores) {
	return map[string]func(*testing.T, Stores){"AreMadeListedAndRevoked": tokensAreKept}
}

func tokensAreKept(t *testing.T, s Stores) {
	token := func(id string, created time.Time) verifier.Token {
		return verifier.Token{ID: id, Created: created, Expires: created.Add(time.Hour), SecretDigest: digestOf("secret of " + id)}
	}
	first, second := token("b", start), token("a", start.Add(time.Second))
	for _, tok := range []verifier.Token{first, second} {
		if err := s.Tokens.AddToken(t.Context(), tok); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Tokens.AddToken(t.Context(), token("a", start)); !errors.Is(err, verifier.ErrExists) {
		t.Errorf("add a token of a taken id: %v, want ErrExists", err)
	}
	listing[verifier.Token, string]{"tokens, oldest first", s.Tokens.Tokens, s.Tokens.RevokeToken}.loses(t, "b", []verifier.Token{first, second}, []verifier.Token{second})
}

func bindingContract() map[string]func(*testing.T, Stores) {
	return map[string]func(*testing.T, Stores){"AreOneToOne": bindingsAreOneToOne}
}

func bindingsAreOneToOne(t *testing.T, s Stores) {
	bind := func(agent attest.AgentID, name, uid string) verifier.Binding {
		t.Helper()
		b := verifier.Binding{Agent: agent, Node: api.KubernetesNode{Name: name, UID: uid}, At: start}
		if err := s.Bindings.Bind(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	// holds checks both ways of looking a binding up; want is nil for none.
	holds := func(agent attest.AgentID, name string, want *verifier.Binding) {
		t.Helper()
		of, errOf := s.Bindings.BindingOf(t.Context(), agent)
		by, errBy := s.Bindings.BindingFor(t.Context(), name)
		if want == nil {
			if !errors.Is(errOf, verifier.ErrNotFound) || !errors.Is(errBy, verifier.ErrNotFound) {
				t.Errorf("agent %s: %v, node %s: %v, want ErrNotFound", agent, errOf, name, errBy)
			}
			return
		}
		if errOf != nil || errBy != nil {
			t.Fatalf("agent %s: %v, node %s: %v", agent, errOf, name, errBy)
		}
		same(t, "binding of "+string(agent), *want, of)
		same(t, "binding for "+name, *want, by)
	}
	holds("agent-1", "node-1", nil)
	first, second := bind("agent-1", "node-1", "a"), bind("agent-2", "node-2", "b")
	holds("agent-1", "node-1", &first)
	holds("agent-2", "node-2", &second)
	moved := bind("agent-1", "node-2", "c") // takes the place of both
	holds("agent-1", "node-2", &moved)
	holds("agent-2", "node-1", nil)
	for range 2 { // freeing what is free is no mistake
		if err := s.Bindings.Unbind(t.Context(), "agent-1"); err != nil {
			t.Fatal(err)
		}
	}
	holds("agent-1", "node-2", nil)
}

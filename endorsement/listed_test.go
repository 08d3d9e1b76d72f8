package endorsement

import (
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
)

// A listed EK is accepted without a certificate, and labelled so; its listing vouches for no other key and takes nothing from a vendor's word.
func TestListedKey(t *testing.T) {
	ek := realEK(t)
	roots := NewRoots()
	if err := roots.AddKey(attest.EKHash([]byte("another key"))); err != nil {
		t.Fatal(err)
	}
	got, failures := roots.Check(ek, nil, noon())
	if len(failures) != 1 || failures[0].ID != attest.EkNotEndorsed || got != (Endorsement{}) {
		t.Errorf("with another key listed: %+v, %v", got, failures)
	}
	if err := roots.AddKey(ek.ID()); err != nil {
		t.Fatal(err)
	}
	for name, chain := range map[string][][]byte{"no certificate": nil, "a broken one": {{0x30}}} {
		if got, failures := roots.Check(ek, chain, noon()); len(failures) > 0 || got != (Endorsement{Label: Listed}) {
			t.Errorf("%s: %+v, %v", name, got, failures)
		}
	}
	if got, failures := roots.Check(EK{}, nil, noon()); len(failures) == 0 {
		t.Errorf("the zero key: %+v", got)
	}
	for _, bad := range []attest.AgentID{"", "node-1", ek.ID()[1:], attest.AgentID(strings.ToUpper(string(ek.ID())))} {
		if err := roots.AddKey(bad); err == nil {
			t.Errorf("%q is listed", bad)
		}
	}
}

// A vendor's word keeps its label where the key is listed too.
func TestListedKeyOfAVendor(t *testing.T) {
	ek := realEK(t)
	root := issue(t, authority{}, "Root", nil)
	leaf := create(t, ekTemplate(t), root, ek.Key()).Raw
	roots := rootsOf(t, root.cert)
	if err := roots.AddKey(ek.ID()); err != nil {
		t.Fatal(err)
	}
	if got, failures := roots.Check(ek, [][]byte{leaf}, noon()); len(failures) > 0 || got.Label != Vendor || got.Root == "" {
		t.Errorf("%+v, %v", got, failures)
	}
}

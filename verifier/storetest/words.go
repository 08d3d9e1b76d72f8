package storetest

import (
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier"
)

func wordContract() map[string]func(*testing.T, Stores) {
	return map[string]func(*testing.T, Stores){"KeysAreASet": keysAreASet, "DistrustStays": distrustStays}
}

func keysAreASet(t *testing.T, s Stores) {
	a := api.ListedKey{EK: attest.AgentID(digestOf("a").Hex()), Note: "rack <7>", Added: start, By: "some \"administrator\""}
	b := api.ListedKey{EK: attest.AgentID(digestOf("b").Hex()), Added: start}
	again := a
	again.Note, again.Added = "another note", start.Add(time.Hour)
	for _, k := range []api.ListedKey{b, a, again} {
		if err := s.Keys.AddKey(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	want := []api.ListedKey{a, b}
	if a.EK > b.EK {
		want = []api.ListedKey{b, a}
	}
	listing[api.ListedKey, attest.AgentID]{"listed keys", s.Keys.Keys, s.Keys.RemoveKey}.loses(t, a.EK, want, []api.ListedKey{b})
}

func distrustStays(t *testing.T, s Stores) {
	first := verifier.Distrusted{Fingerprint: digestOf("a"), At: start}
	for _, at := range []time.Duration{0, time.Hour} {
		if err := s.Distrust.Distrust(t.Context(), verifier.Distrusted{Fingerprint: first.Fingerprint, At: start.Add(at)}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Distrust.Distrusted(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same(t, "distrusted roots", []verifier.Distrusted{first}, got)
}

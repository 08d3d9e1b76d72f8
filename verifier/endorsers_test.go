package verifier

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
)

// Bundled roots are believed until a person distrusts them; what a person added stands on its own.
func TestVendorRoots(t *testing.T) {
	ctx, store := t.Context(), NewMemoryStore()
	root := func(name, origin string) Root {
		return Root{Fingerprint: attest.SHA256.Sum([]byte(name)), Subject: "CN=" + name, Origin: origin}
	}
	a, b, own := root("a", OriginBundled), root("b", OriginBundled), root("own", "added by a person")
	v := NewVendorRoots(store, store, []Root{b, a}, time.Now)
	expect := func(what string, want ...Root) {
		t.Helper()
		got, err := v.Roots(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var have, expected []string
		for _, r := range got {
			have = append(have, r.Subject+" "+r.Origin)
		}
		for _, r := range want {
			expected = append(expected, r.Subject+" "+r.Origin)
		}
		if strings.Join(have, ", ") != strings.Join(expected, ", ") {
			t.Errorf("%s: %v, want %v", what, have, expected)
		}
	}
	expect("at first", a, b)
	if err := v.AddRoot(ctx, own); err != nil {
		t.Fatal(err)
	}
	if err := v.RemoveRoot(ctx, a.Fingerprint); err != nil {
		t.Fatal(err)
	}
	expect("a is distrusted", b, own)
	again := root("a", "added by a person")
	if err := v.AddRoot(ctx, again); err != nil {
		t.Fatal(err)
	}
	expect("a person's word", again, b, own)
	for _, r := range []Root{again, own} {
		if err := v.RemoveRoot(ctx, r.Fingerprint); err != nil {
			t.Fatal(err)
		}
	}
	expect("a is gone, and not bundled again", b)
	if err := v.RemoveRoot(ctx, own.Fingerprint); !errors.Is(err, ErrNotFound) {
		t.Errorf("remove what is not there: %v", err)
	}
}

package api

import (
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
)

func TestListedKeyValidate(t *testing.T) {
	hash := attest.EKHash([]byte("a key"))
	for name, row := range map[string]struct {
		key  ListedKey
		want string // what the error must name; "" for a good key
	}{
		"with a note":      {ListedKey{EK: hash, Note: "rack 7, ordered 2026-10"}, ""},
		"without":          {ListedKey{EK: hash}, ""},
		"no key":           {ListedKey{}, "ek"},
		"a name":           {ListedKey{EK: "node-1"}, `"node-1"`},
		"upper case":       {ListedKey{EK: attest.AgentID(strings.ToUpper(string(hash)))}, "lower case"},
		"a digit too few":  {ListedKey{EK: hash[1:]}, "64"},
		"a terminal code":  {ListedKey{EK: hash, Note: "\x1b[2J"}, "note"},
		"a note too long":  {ListedKey{EK: hash, Note: strings.Repeat("a", MaxNoteBytes+1)}, "note"},
		"two lines of one": {ListedKey{EK: hash, Note: "a\nb"}, "note"},
	} {
		err := row.key.Validate()
		if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", name, err, row.want)
		}
	}
}

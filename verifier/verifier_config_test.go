package verifier

import (
	"strings"
	"testing"

	"github.com/assay-project/assay/api"
)

func TestConfigRefusesUnknownReimage(t *testing.T) {
	store := NewMemoryStore()
	for reimage, want := range map[api.Reimage]string{
		"Deny": `reimage "Deny" is neither Allow nor Approval`, "allow": `reimage "allow" is neither`, "": "", api.ReimageAllow: "", api.ReimageApproval: "",
	} {
		_, err := New(Config{Store: store, Evidence: store, Policies: store, Reactions: store, Collector: &fleet{}, Reimage: reimage})
		if (want == "") != (err == nil) || want != "" && !strings.Contains(err.Error(), want) {
			t.Errorf("reimage %q: %v, want %q", reimage, err, want)
		}
	}
}

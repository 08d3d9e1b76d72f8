package ima_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/assay-project/assay/deploy/ima"
)

// The policy of hosts with containers is that of hosts, after exceptions that name overlayfs and what is executed from it, and nothing else.
func TestContainersPolicyIsTheHostsWithExceptions(t *testing.T) {
	rest, found := strings.CutSuffix(string(ima.ContainersPolicy()), string(ima.HostPolicy()))
	if !found || rest == "" {
		t.Fatalf("containers.policy does not end with host.policy:\n%s", ima.ContainersPolicy())
	}
	for line := range strings.Lines(rest) {
		words := strings.Fields(line)
		if len(words) != 3 || words[0] != "dont_measure" || words[2] != "fsmagic=0x794c7630" || words[1] != "func=BPRM_CHECK" && words[1] != "func=MMAP_CHECK" {
			t.Errorf("an exception that is not one for programs on overlayfs: %s", line)
		}
	}
	if strings.Contains(string(ima.HostPolicy()), "dont_measure") {
		t.Error("host.policy has exceptions")
	}
}

// A file is ours to the byte, or it is not.
func TestShipped(t *testing.T) {
	for want, content := range map[string][]byte{
		ima.Host: ima.HostPolicy(), ima.Containers: ima.ContainersPolicy(), "": append(ima.HostPolicy(), '\n'),
	} {
		if got := ima.Shipped(sha256.Sum256(content)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Package ima carries the IMA policies that Assay's hosts and lab machines load as the first act of userspace. README.md beside it tells how a
// host installs one and what they do and do not measure. Reference values name a policy by its digest, so a change of one byte is a new policy.
package ima

import (
	"crypto/sha256"
	_ "embed"
)

//go:embed host.policy
var hostPolicy []byte

//go:embed containers.policy
var containersPolicy []byte

// HostPolicy returns the bytes of host.policy.
func HostPolicy() []byte { return append([]byte(nil), hostPolicy...) }

// ContainersPolicy returns the bytes of containers.policy: host.policy without what runs from overlayfs, which is where containers run. A
// server counts it as approved only for nodes whose assignment says `containerFiles: Ignore`. A version that was released has to stay
// known to servers when this one changes, or it would become approvable like any other policy.
func ContainersPolicy() []byte { return append([]byte(nil), containersPolicy...) }

// The names of the policies in configurations.
const (
	Host       = "Host"
	Containers = "Containers"
)

// Shipped names the policy of Assay that has a SHA-256 digest, "" for a file that is none of ours. An agent replaces only files that it
// names, so a version that was released has to stay in it.
func Shipped(digest [sha256.Size]byte) string {
	switch digest {
	case sha256.Sum256(hostPolicy):
		return Host
	case sha256.Sum256(containersPolicy):
		return Containers
	}
	return ""
}

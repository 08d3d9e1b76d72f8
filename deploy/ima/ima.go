// Package ima carries the IMA policy that Assay's hosts and lab machines load as the first act of userspace. README.md beside it tells how a
// host installs it and what it does and does not measure. Reference values name it by its digest, so a change of one byte is a new policy.
package ima

import _ "embed"

//go:embed host.policy
var hostPolicy []byte

// HostPolicy returns the bytes of host.policy.
func HostPolicy() []byte { return append([]byte(nil), hostPolicy...) }

package cluster

import (
	"fmt"
	"strconv"
)

// The addresses of a cluster. Those between nodes and pods exist in the nodes' namespaces only, so all clusters have the same; the link to the host
// has a number that tells clusters apart.
const (
	podRange     = "10.244.0.0/16"
	serviceRange = "10.96.0.0/16"
	apiService   = "10.96.0.1"
	dnsService   = "10.96.0.10"
	apiPort      = 6443
)

// hostAddress and routerAddress are the two ends of the link between the host and the first node.
func hostAddress(number string) string   { return "10.99." + number + ".1" }
func routerAddress(number string) string { return "10.99." + number + ".2" }

// A place is where the node with an index lies; the first node has index 0.
type place int

// podCIDR is the range of the node's pods.
func (p place) podCIDR() string { return fmt.Sprintf("10.244.%d.0/24", int(p)) }

// gateway and address are the two ends of a worker's link, the first node's and its own.
func (p place) gateway() string { return fmt.Sprintf("10.98.%d.1", int(p)) }
func (p place) address() string { return fmt.Sprintf("10.98.%d.2", int(p)) }

// link names the first node's end.
func (p place) link() string { return "worker" + strconv.Itoa(int(p)) }

// maxNodes is what the numbering has room for.
const maxNodes = 200

// Package cluster makes real Kubernetes clusters on one machine, for tests and for trying the chart: the real API server, kubelet and
// containerd at pinned versions, built from source.
//
//	your process ── Up ──► supervisor ──► node1: namespaces with etcd, the control plane, kubelet, containerd; a swtpm beside it
//	                          ├─────────► node2 ...: more native nodes, workers only
//	      └── lab.Up ──► lab machines that joined: a kernel with IMA, a TPM, kubelet and containerd inside
//
// A native node is a set of namespaces (mount, pid, network, ipc, uts, cgroup) on the host's kernel. It sees the host's programs, and folders of
// its own in place of /var/lib, /var/log, /run and /tmp. The first one is the control plane and a worker too, and the router of the others: each
// worker hangs on it by a network of its own. The host reaches the first node over one pair of network interfaces.
//
// The supervisor ends everything with the process that called Up, or when told to (Down): processes, mounts, interfaces, cgroups and the folder. Root is
// needed for namespaces and cgroups. Kubernetes, containerd and CoreDNS come from the module proxy, checked by go.sum, and are built once from a
// checkout of this repository; runc, the network plugins and iptables are the host's packages.
//
// A cluster is a test subject. Its keys lie in its folder, and its first user may do everything.
package cluster

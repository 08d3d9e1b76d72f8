// Package cluster holds the tests of lab/cluster on real clusters: nodes become Ready, pods and services do what pods and services do, a lab machine joins and
// comes back from a reboot, and nothing of a cluster outlives it. The programs of Kubernetes are in modules of their own below.
package cluster

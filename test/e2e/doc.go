// Package e2e holds the test of the whole product in a real Kubernetes cluster, from the installation of the chart to its removal, with a lab machine
// that has a TPM and IMA as a worker. It is a story: its steps build on each other.
package e2e

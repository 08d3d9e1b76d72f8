// Package scale measures the operator with thousands of nodes: a real API server, kwok in the place of the kubelets, the real verifier with its API and
// store, and the operator's own program as a process of its own, of which time, memory and requests are counted.
//
// What is simulated are the machines: their keys are in software and their answers take no network. Quotes, lists, sessions and tokens are real, so that
// claims, enrolment, assignment, verdicts and reactions come about as in a cluster. Counts are asserted; times are told, and belong to make bench.
package scale

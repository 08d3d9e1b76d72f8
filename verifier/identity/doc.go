// Package identity tells who an agent is, beside what evidence proves of it: the sessions in which agents prove that they hold their AK, bound to
// their TLS key; their claims to Kubernetes nodes, which the operator answers; the agents without a TPM; and what agents say of themselves.
//
// All of it is bounded, lives in memory, and is made again by living agents after a restart; only bindings of agents to nodes are stored. A
// token of a node is a secret: it is shown to the operator alone, until it answered, and never logged. Nothing here moves a verdict.
package identity

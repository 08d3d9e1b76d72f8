// Package nodes is what the operator does about nodes: it answers the agents' claims to them, enrols agents, assigns policies by NodePolicy,
// reports verdicts as NodeReports and Events, and carries out the reactions that the server decides.
//
// Each decision is a pure function of a situation: gather reads caches and the server, decide judges, apply writes. Verdicts, budgets and
// the question whether to react are the server's. The API server is trusted for names and UIDs of nodes and for what it says of tokens. What
// a node can write about itself (labels outside node-restriction.kubernetes.io, annotations, schedulability, its status) decides nothing.
package nodes

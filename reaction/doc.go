// Package reaction decides when a node of a cluster is reacted to, and keeps the budget of who asked for it.
//
// It holds the rules alone: a row for each decision, moved by functions that work on a Book inside one transaction of a store, so that a
// verdict and its consequence become durable together. It trusts its callers for what a node's verdict asks for (Want) and for the time,
// and leaves storing, transport and the acts on the cluster to others.
//
// The life of a row: Waiting for the budget, Due, Claimed by an operator, Applied; when the reason is gone Lifting, Claimed again, Lifted.
// What nobody has touched yet is Dropped instead. At any time a node has one open row at most.
package reaction

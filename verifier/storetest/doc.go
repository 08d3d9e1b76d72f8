// Package storetest is the contract of the verifier's stores as tests: every implementation runs them on a fresh store.
//
// It trusts nothing of a store but what the interfaces in verifier promise, and leaves crashes, power cuts and migrations to the
// tests of each implementation.
package storetest

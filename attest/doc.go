// Package attest holds the words that every other package of Assay speaks: agent identities, digests, verdicts, failures and results.
//
// It trusts nothing and decides nothing: it has no I/O, no clock and no policy. The table in failures.go is the only
// place where a failure ID gets its class, its severity and its sentence; wire maps the IDs to Keylime's event names.
package attest

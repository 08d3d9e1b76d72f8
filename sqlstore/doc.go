// Package sqlstore keeps the registrar's and the verifier's state in a SQL database: SQLite, embedded in the process, so far.
//
// An exported method is one transaction around lower-case functions that take it; there is one file for each noun. Writers take
// turns on a single connection, readers see snapshots beside them, and what a method reported as written survives a power cut
// (write-ahead log, synchronous=FULL). The package trusts its callers' values and the database file, whose owner may read
// everything in it but join tokens, of which only hashes are kept. It leaves all rules but uniqueness, order and versions to
// registrar and verifier, whose interfaces it implements and whose contract tests (storetest) it passes.
package sqlstore

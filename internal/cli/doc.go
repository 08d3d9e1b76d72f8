// Package cli is what Assay's programs share on the command line: how they start, end and read their
// configuration, exit codes, the nearest flag to a mistyped one, and tables whose cells cannot move the cursor.
//
// It knows no noun of Assay. Every cell of a table may come from an attacker, so it is escaped here and nowhere else.
package cli

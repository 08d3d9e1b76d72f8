// Package wire holds Keylime's protocol as it goes over the network: the JSON bodies of the registrar's and the agent's API, versions 2.1 to
// 2.6, the packed quote with its PCR blob, the packed credential, the activation tag, and the ids of failed checks. One file per group.
//
// Keylime's spelling and its misspellings live here and nowhere else. The package trusts nothing and judges nothing: it turns bytes into
// claims and claims into bytes, refuses what is not in the form, and bounds what it reads. Quotes are judged by evidence/quote,
// keys by endorsement. Bodies may hold members that we do not know; reading them from a connection, bounded and
// without duplicate keys, is left to internal/httpjson, which the roles use.
//
// Source: the behaviour of Keylime 7.14.3 and rust-keylime 0.2.9, in captures (testdata/README.md).
package wire

// Package agent is the attester: the role that runs on a machine, makes its TPM quote, and hands out the kernel's logs with the quote.
//
// It registers with a registrar, answers a verifier that pulls (Keylime's agent API v2), and dials the server's native API with a
// session that its AK proves. It decides nothing about the machine and nothing rests on its word: what it says is a claim until the
// verifier has checked the quote. It trusts its configuration for who its server is, and the server for who may ask it.
//
// New opens what needs rights, DropRights gives the rights up, Run does the rest without them.
package agent

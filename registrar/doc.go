// Package registrar takes in agents: an agent presents its endorsement key (EK), its attestation key (AK) and where it answers, and
// proves by opening a credential that both keys live in one TPM.
//
// It speaks Keylime's registrar protocol, version 2 (package wire). It trusts nothing that an agent says: the AK's attributes are
// checked, the EK's endorsement is checked and recorded, and nothing of a registration counts before its own activation has
// succeeded. Whether an agent without endorsement may be enrolled is left to the verifier, which asks here for EK and AK and judges
// both again. Who may administer is left to the caller's Role function, which reads client certificates; TLS and listening are the caller's.
package registrar

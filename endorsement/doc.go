// Package endorsement judges the keys of a TPM: that an attestation key (AK) is a restricted signing key fixed to its TPM, that an
// endorsement key (EK) belongs to a genuine TPM by a certificate path to a pinned vendor root, and that the AK lives beside the EK, by making a
// credential that only their TPM can open.
//
// It trusts the roots that the caller pins, and nothing that an agent sends. It does no I/O, reads no clock (the caller passes the time) and
// makes no random numbers of its own. Packing a credential for the wire, and remembering which AK was activated, are left to others.
//
// Sources of the rules: TPM 2.0 Library, parts 1 and 2; TCG EK Credential Profile for TPM Family 2.0, level 0, version 2.5; RFC 5280.
package endorsement

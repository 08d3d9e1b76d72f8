// Package eventlog reads the boot event log that firmware and boot loader leave behind, and replays it to quoted PCRs.
//
// Parse takes the crypto-agile form (Spec ID Event03) and the SHA-1 form (TCG PC Client Platform Firmware Profile 1.05, section 10)
// as Linux shows them in binary_bios_measurements. Replay compares with a quote.Verified and is the only source of Replayed.
//
// It trusts the quote alone. Replay proves the order and the digests of events; it does not prove an event's type or data, which an
// attacker may exchange as long as the digests stay. Whoever reads data has to compare it with the digest, where its type hashes it.
// What events ought to be there is left to boot policies; user space extends that no firmware log holds (PCR 10, 11, ...) are for the
// caller to skip.
package eventlog

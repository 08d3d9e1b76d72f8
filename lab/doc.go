// Package lab makes machines that have what attestation needs and a container has not: a real Linux kernel with IMA, a TPM (an emulated one that
// speaks the TPM's protocol, with an EK certificate), measured boot, an own disk and a network card that can be cut.
//
//	your process ── lab.Up ──► supervisor (this program again: lab supervise DIR) ──► QEMU, swtpm
//	      └──── commands, files: exec service over loopback ──► the machine's init (lab/guest)
//
// Each machine is a folder, and a supervisor process that owns its QEMU and swtpm. Until Detach the supervisor watches the process that called
// Up and takes the machine down, folder and all, when that process ends in whatever way; the kernel in turn kills QEMU and swtpm when the
// supervisor is killed. So nothing is left behind.
//
// The lab needs no root. It trusts the packages of the host's distribution, which it fetches through apt; a machine made here is a test
// subject and never evidence about the host.
package lab

// Package integration plays the roles against each other with a TPM emulator and without a machine: the real server with its database, the
// real agent, and a file that stands for the kernel's measurement list while the test extends the PCR as the kernel would.
//
// Roles may not import each other, so what they do together is tested here; what needs a real kernel is tested in test/lab.
package integration

// Package lab plays whole stories with the real programs on a machine with a real kernel: the demonstration, a transcript of everything
// that may happen to a machine and its verifier, and programs run from places where programs should not be.
package lab

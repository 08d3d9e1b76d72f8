// Package durable writes files that survive a crash and owns the state directory of a program.
//
// A file is replaced as a whole or not at all, and what was reported as written is on the disk. A state directory belongs to one
// process at a time and says which program and format wrote it. What lies in the files is their owners' business.
package durable

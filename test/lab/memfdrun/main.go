// Command memfdrun is a program for lab machines: it copies a program into a memory file and executes it there, without a name in
// any file system.
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "memfdrun: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) < 3 {
		return fmt.Errorf("usage: memfdrun NAME PROGRAM [ARGUMENT...]")
	}
	text, err := os.ReadFile(os.Args[2])
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate(os.Args[1], unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	if _, err := unix.Write(fd, text); err != nil {
		return fmt.Errorf("write memory file: %w", err)
	}
	return unix.Exec(fmt.Sprintf("/proc/self/fd/%d", fd), os.Args[2:], os.Environ())
}

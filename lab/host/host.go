// Package host is what the lab takes from the machine that it runs on: programs of the distribution and room on its disk. What it lacks is named
// with the Debian package that brings it.
package host

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// ErrMissing is in every error about something that a package of the distribution would bring.
var ErrMissing = errors.New("not installed")

// ErrNoSpace says that a folder's file system has too little room.
var ErrNoSpace = errors.New("not enough disk space")

// Program finds a program in PATH or where only root's PATH looks.
func Program(name, debianPackage string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w (Debian package %s)", name, ErrMissing, debianPackage)
}

// CheckSpace says whether the file system of dir, which must exist, has room for want bytes.
func CheckSpace(dir string, want int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return fmt.Errorf("free space of %s: %w", dir, err)
	}
	if have := int64(st.Bavail) * st.Bsize; have < want {
		return fmt.Errorf("%w: %s has %d MiB and %d MiB are needed", ErrNoSpace, dir, have>>20, want>>20)
	}
	return nil
}

// RunTool runs a program to its end. Its error ends with what the program had to say.
func RunTool(cmd *exec.Cmd) (string, error) {
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, LastLines(stderr.String(), 4))
	}
	return stdout.String(), nil
}

// LastLines returns the end of a text, on one line and without what would steer a terminal: firmware draws on its console.
func LastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	end := strings.Join(lines[max(0, len(lines)-n):], "; ")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, end)
}

// Tail is LastLines of a file; nothing if it cannot be read.
func Tail(path string, n int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return LastLines(string(data), n)
}

// ModTime is the zero time for what cannot be read.
func ModTime(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

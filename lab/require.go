package lab

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unicode"
)

// Where Debian's ovmf package puts the firmware.
const (
	ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// ErrMissing is in every error about something that a package of the distribution would bring.
var ErrMissing = errors.New("not installed")

// ErrNoSpace says that a folder's file system has too little room.
var ErrNoSpace = errors.New("not enough disk space")

// A Requirement is something on the host that a lab machine cannot do without.
type Requirement struct {
	Name    string // program or file
	Package string // Debian package that brings it
}

// Missing returns what the host lacks to make a machine with this firmware, in the order in which it would be needed.
func Missing(firmware Firmware) []Requirement {
	programs := []Requirement{
		{"qemu-system-x86_64", "qemu-system-x86"}, {"swtpm", "swtpm"}, {"swtpm_setup", "swtpm-tools"}, {"swtpm_localca", "swtpm-tools"},
		{"mkfs.ext4", "e2fsprogs"}, {"apt-get", "apt"}, {"apt-cache", "apt"}, {"dpkg-deb", "dpkg"},
		{"tar", "tar"},
	}
	var missing []Requirement
	for _, p := range programs {
		if _, err := program(p.Name, p.Package); err != nil {
			missing = append(missing, p)
		}
	}
	if _, err := staticBusybox(); err != nil {
		missing = append(missing, Requirement{"static busybox", "busybox-static"})
	}
	for _, file := range []string{ovmfCode, ovmfVars} {
		if _, err := os.Stat(file); firmware == OVMF && err != nil {
			missing = append(missing, Requirement{file, "ovmf"})
		}
	}
	return missing
}

// checkHost refuses a host that cannot run machines, naming everything that is missing.
func checkHost(firmware Firmware) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("lab machines are x86-64 and this host is %s", runtime.GOARCH)
	}
	var all []error
	for _, m := range Missing(firmware) {
		all = append(all, fmt.Errorf("%s: %w (Debian package %s)", m.Name, ErrMissing, m.Package))
	}
	return errors.Join(all...)
}

// program finds a program in PATH or where only root's PATH looks.
func program(name, debianPackage string) (string, error) {
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

// staticBusybox finds a busybox that needs no libraries: the machine has none.
func staticBusybox() (string, error) {
	path, err := program("busybox", "busybox-static")
	if err != nil {
		return "", err
	}
	f, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", fmt.Errorf("%s is linked dynamically: %w (Debian package busybox-static)", path, ErrMissing)
		}
	}
	return path, nil
}

// checkSpace says whether the file system of dir, which must exist, has room for want bytes.
func checkSpace(dir string, want int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return fmt.Errorf("free space of %s: %w", dir, err)
	}
	if have := int64(st.Bavail) * st.Bsize; have < want {
		return fmt.Errorf("%w: %s has %d MiB and %d MiB are needed", ErrNoSpace, dir, have>>20, want>>20)
	}
	return nil
}

// runTool runs a program to its end. Its error ends with what the program had to say.
func runTool(cmd *exec.Cmd) (string, error) {
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, lastLines(stderr.String(), 4))
	}
	return stdout.String(), nil
}

// lastLines returns the end of a text, on one line and without what would steer a terminal: firmware draws on its console.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	end := strings.Join(lines[max(0, len(lines)-n):], "; ")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, end)
}

package lab

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/assay-project/assay/lab/host"
)

// Where Debian's ovmf package puts the firmware.
const (
	ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// Errors about the host, under the names of this package.
var (
	// ErrMissing is in every error about something that a package of the distribution would bring.
	ErrMissing = host.ErrMissing
	// ErrNoSpace says that a folder's file system has too little room.
	ErrNoSpace = host.ErrNoSpace
)

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
		if _, err := host.Program(p.Name, p.Package); err != nil {
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
		all = append(all, fmt.Errorf("%s: %w (Debian package %s)", m.Name, host.ErrMissing, m.Package))
	}
	return errors.Join(all...)
}

// staticBusybox finds a busybox that needs no libraries: the machine has none.
func staticBusybox() (string, error) {
	path, err := host.Program("busybox", "busybox-static")
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
			return "", fmt.Errorf("%s is linked dynamically: %w (Debian package busybox-static)", path, host.ErrMissing)
		}
	}
	return path, nil
}

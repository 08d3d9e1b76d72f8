// Package need is the only place where a test may be skipped: each function names one thing that a test cannot do without, skips the test
// where it is missing and says what is missing, and fails instead under CI (the environment variable CI is not empty).
package need

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Root needs the test to run as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "root")
	}
}

// Program needs programs, in PATH or where only root's PATH looks; debianPackage brings them.
func Program(t testing.TB, debianPackage string, names ...string) {
	t.Helper()
	if lacking := lackingPrograms(debianPackage, names...); len(lacking) > 0 {
		missing(t, strings.Join(lacking, ", "))
	}
}

// Swtpm needs the TPM emulator and its manufacturing tool.
func Swtpm(t testing.TB) {
	t.Helper()
	if lacking := lackingSwtpm(); len(lacking) > 0 {
		missing(t, strings.Join(lacking, ", "))
	}
}

// Lab needs what lab machines are made with, firmware included. Packages of the machine itself are fetched by the lab.
func Lab(t testing.TB) {
	t.Helper()
	if lacking := lackingLab(); len(lacking) > 0 {
		missing(t, strings.Join(lacking, ", "))
	}
}

func lackingSwtpm() []string {
	return append(lackingPrograms("swtpm", "swtpm"), lackingPrograms("swtpm-tools", "swtpm_setup", "swtpm_localca")...)
}

// lackingLab says what package lab would refuse a host for. It stands here once more because this package imports nothing of ours.
func lackingLab() []string {
	lacking := lackingSwtpm()
	for debianPackage, names := range map[string][]string{
		"qemu-system-x86": {"qemu-system-x86_64"}, "e2fsprogs": {"mkfs.ext4"}, "apt": {"apt-get", "apt-cache"}, "dpkg": {"dpkg-deb"}, "tar": {"tar"},
	} {
		lacking = append(lacking, lackingPrograms(debianPackage, names...)...)
	}
	if path, err := lookPath("busybox"); err != nil || dynamic(path) {
		lacking = append(lacking, "static busybox (Debian package busybox-static)")
	}
	for _, path := range []string{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"} {
		if _, err := os.Stat(path); err != nil {
			lacking = append(lacking, path+" (Debian package ovmf)")
		}
	}
	slices.Sort(lacking)
	return lacking
}

func lackingPrograms(debianPackage string, names ...string) []string {
	var lacking []string
	for _, name := range names {
		if _, err := lookPath(name); err != nil {
			lacking = append(lacking, name+" (Debian package "+debianPackage+")")
		}
	}
	return lacking
}

// lookPath looks into the folders of the system's programs too, which an ordinary user's PATH lacks.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if err != nil {
			path, err = exec.LookPath(filepath.Join(dir, name))
		}
	}
	return path, err
}

// dynamic reports whether a program wants a loader, or cannot be read.
func dynamic(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return true
	}
	defer f.Close()
	return slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// Cluster needs what a lab cluster is made with. Kubernetes itself is built by the cluster; a machine that joins needs Lab too.
func Cluster(t testing.TB) {
	t.Helper()
	Root(t)
	Swtpm(t)
	Program(t, "runc", "runc")
	Program(t, "iptables", "iptables")
	Program(t, "iproute2", "ip")
	Program(t, "containernetworking-plugins", "/usr/lib/cni/bridge")
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("needs %s; under CI that is a failure", what)
	}
	t.Skipf("needs %s", what)
}

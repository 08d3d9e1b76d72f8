// Package need is the only place where a test may be skipped: each function names one thing that a test cannot do without, skips the test
// where it is missing and says what is missing, and fails instead under CI (the environment variable CI is not empty).
package need

import (
	"os"
	"os/exec"
	"testing"
)

// Root needs the test to run as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "root")
	}
}

// Program needs programs in PATH; package names the Debian package that brings them.
func Program(t testing.TB, debianPackage string, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing(t, name+" (Debian package "+debianPackage+")")
		}
	}
}

// Swtpm needs the TPM emulator and its manufacturing tool.
func Swtpm(t testing.TB) {
	t.Helper()
	Program(t, "swtpm", "swtpm")
	Program(t, "swtpm-tools", "swtpm_setup", "swtpm_localca")
}

// Lab needs what a lab machine is made with; the kernel package is fetched by the lab itself.
func Lab(t testing.TB) {
	t.Helper()
	Swtpm(t)
	Program(t, "qemu-system-x86", "qemu-system-x86_64")
	Program(t, "e2fsprogs", "mkfs.ext4")
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("needs %s; under CI that is a failure", what)
	}
	t.Skipf("needs %s", what)
}

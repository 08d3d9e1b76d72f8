package lab

import (
	"bytes"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/lab/guest"
)

const listPath = "/sys/kernel/security/ima/ascii_runtime_measurements"

// checkList replays the machine's list and looks at its order. The policy's entry under its own name, right after boot_aggregate, is what runtime
// documents ask for.
func checkList(t *testing.T, m *Machine) {
	t.Helper()
	// The command that reads the list is in it before it reads.
	lines := strings.Split(output(t, m, "cat "+listPath), "\n")
	var names []string
	pcr := make([]byte, sha1.Size)
	for i, line := range lines {
		fields := strings.SplitN(line, " ", 5)
		if len(fields) != 5 || fields[0] != "10" {
			t.Fatalf("line %d: %q", i, line)
		}
		hash, err := hex.DecodeString(fields[1])
		if err != nil {
			t.Fatalf("line %d: %v", i, err)
		}
		if bytes.Equal(hash, make([]byte, len(hash))) {
			hash = bytes.Repeat([]byte{0xff}, len(hash))
		}
		sum := sha1.Sum(append(pcr, hash...))
		pcr = sum[:]
		name, _, _ := strings.Cut(fields[4], " ") // ima-sig has a further, empty field
		names = append(names, name)
	}
	if len(names) < 3 || names[0] != "boot_aggregate" || names[1] != guest.PolicyPath || names[2] != guest.InitPath {
		t.Errorf("the list begins with %q", names[:min(3, len(names))])
	}
	if got := strings.ToLower(output(t, m, "cat /sys/class/tpm/tpm0/pcr-sha1/10")); got != hex.EncodeToString(pcr) {
		t.Errorf("the list replays to %x and the TPM says %s", pcr, got)
	}
}

func checkPolicyClosed(t *testing.T, m *Machine) {
	for _, rule := range []string{"dont_measure func=BPRM_CHECK", guest.PolicyPath} {
		if _, err := m.Output(t.Context(), "sh", "-c", "echo "+rule+" > /sys/kernel/security/ima/policy"); err == nil {
			t.Errorf("the kernel took %q after the start", rule)
		}
	}
}

func checkTPM(t *testing.T, m *Machine) {
	if got := output(t, m, "cat /sys/class/tpm/tpm0/tpm_version_major; test -c /dev/tpmrm0 && echo device"); got != "2\ndevice" {
		t.Errorf("got %q", got)
	}
	root, err := m.EKRoot()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(root)
	if block == nil {
		t.Fatalf("the EK's root is no PEM: %q", root)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !cert.IsCA {
		t.Errorf("the EK's root: %v", err)
	}
}

// Programs of file systems that vanish are measured as others are: the built-in policy would not see them.
func checkVolatile(t *testing.T, m *Machine) {
	if err := m.WriteFile(t.Context(), "/tmp/image", 0o600, imageWith(t, "from-loop")); err != nil {
		t.Fatal(err)
	}
	output(t, m, `set -e
printf '#!/bin/sh\necho shm\n' > /dev/shm/from-shm; printf '#!/bin/sh\necho tmp\n' > /tmp/from-tmp
chmod +x /dev/shm/from-shm /tmp/from-tmp; /dev/shm/from-shm; /tmp/from-tmp
mkdir -p /tmp/lo /tmp/ov/low /tmp/ov/up /tmp/ov/work /tmp/ov/all
mount -t overlay overlay -o lowerdir=/tmp/ov/low,upperdir=/tmp/ov/up,workdir=/tmp/ov/work /tmp/ov/all
printf '#!/bin/sh\necho overlay\n' > /tmp/ov/all/from-overlay; chmod +x /tmp/ov/all/from-overlay; /tmp/ov/all/from-overlay; umount /tmp/ov/all
mount -t ext4 -o loop /tmp/image /tmp/lo; /tmp/lo/from-loop; umount /tmp/lo`)
	list := output(t, m, "cat "+listPath)
	for _, path := range []string{"/dev/shm/from-shm", "/tmp/from-tmp", "/tmp/ov/all/from-overlay", "/tmp/lo/from-loop"} {
		if !strings.Contains(list, path+"\n") && !strings.HasSuffix(list, path) {
			t.Errorf("%s ran and is not in the list", path)
		}
	}
}

// imageWith makes an ext4 image that holds a script.
func imageWith(t *testing.T, script string) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, script), []byte("#!/bin/sh\necho loop\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := makeDisk(t.Context(), image, dir, 24); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// UEFI measures the kernel before it runs; the log says so.
func TestOVMFMeasuresTheBoot(t *testing.T) {
	place(t)
	m := boot(t, Config{Firmware: OVMF, KernelArgs: []string{"lab.mark=one"}})
	log, err := m.ReadFile(t.Context(), "/sys/kernel/security/tpm0/binary_bios_measurements")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(log, []byte("Spec ID Event03")) {
		t.Errorf("a boot log of %d bytes, not crypto-agile", len(log))
	}
	zero := strings.Repeat("0", 64)
	for _, pcr := range []string{"0", "4", "7", "9"} {
		if got := output(t, m, "cat /sys/class/tpm/tpm0/pcr-sha256/"+pcr); got == zero {
			t.Errorf("PCR %s is empty", pcr)
		}
	}
	checkList(t, m)
	before := output(t, m, "cat /sys/class/tpm/tpm0/pcr-sha256/[0-7]")
	if err := m.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := output(t, m, "cat /sys/class/tpm/tpm0/pcr-sha256/[0-7]"); after != before {
		t.Errorf("the same boot measures differently:\n%s\n%s", before, after)
	}
}

func TestTemplateIsAnOption(t *testing.T) {
	place(t)
	m := boot(t, Config{IMATemplate: "ima-sig"})
	if list := output(t, m, "cat "+listPath); !strings.Contains(list, " ima-sig sha256:") {
		t.Errorf("got %s", list)
	}
	checkList(t, m)
}

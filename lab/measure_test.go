package lab

import (
	"bytes"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/lab/guest"
)

// What the kernel shows of the boot and of what ran since.
const (
	listPath    = "/sys/kernel/security/ima/ascii_runtime_measurements"
	bootLogPath = "/sys/kernel/security/tpm0/binary_bios_measurements"
)

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

// capture names a folder that receives the evidence of the OVMF machine: go test ./lab -run OVMF -capture FOLDER.
var capture = flag.String("capture", "", "folder that receives the evidence of the OVMF machine")

// UEFI measures the kernel before it runs; the log says so.
func TestOVMFMeasuresTheBoot(t *testing.T) {
	place(t)
	m := boot(t, Config{Firmware: OVMF, Files: dynamicProgram()})
	log, err := m.ReadFile(t.Context(), bootLogPath)
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
	runOddPrograms(t, m)
	checkList(t, m)
	if *capture != "" {
		captureEvidence(t, m, *capture)
	}
	const bootPCRs = "cat /sys/class/tpm/tpm0/pcr-sha256/[0-9]"
	before := output(t, m, bootPCRs)
	if err := m.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := output(t, m, bootPCRs); after != before {
		t.Errorf("the same boot measures differently:\n%s\n%s", before, after)
	}
}

// A program with its loader and library, from the host: busybox has none.
func dynamicProgram() []File {
	const loader, libc = "/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"
	return []File{
		{Path: "/opt/odd/dynamic", Mode: 0o755, Source: "/usr/bin/sleep"}, {Path: loader, Mode: 0o755, Source: loader}, {Path: libc, Mode: 0o755, Source: libc},
	}
}

// runOddPrograms gives the list what a replay must cope with: a name with a space, one beyond ASCII, a program with libraries, and two violations:
// a library that was open for writing when it was mapped, and one that was opened for writing while it was mapped.
func runOddPrograms(t *testing.T, m *Machine) {
	t.Helper()
	output(t, m, `set -e
cd /opt/odd
printf '#!/bin/sh\necho space\n' > 'with space.sh'; cp 'with space.sh' uni-é中.sh; cp 'with space.sh' /dev/shm/volatile
chmod +x *.sh /dev/shm/volatile
'./with space.sh'; ./uni-é中.sh; /dev/shm/volatile
./dynamic 0
( exec 3>>/lib/x86_64-linux-gnu/libc.so.6; ./dynamic 0 )
./dynamic 3 & sleep 1; ( exec 3>>/lib/x86_64-linux-gnu/libc.so.6 ); wait
./dynamic 0`)
	list := output(t, m, "cat "+listPath)
	for _, want := range []string{"/opt/odd/with_space.sh", "/opt/odd/uni-é中.sh", "/dev/shm/volatile", "/opt/odd/dynamic", "/ld-linux-x86-64.so.2"} {
		if !strings.Contains(list, want+"\n") {
			t.Errorf("nothing about %q in the list:\n%s", want, list)
		}
	}
	if got := strings.Count(list, " "+strings.Repeat("0", 40)+" "); got != 2 {
		t.Errorf("%d violations in the list, want 2:\n%s", got, list)
	}
}

// captureEvidence writes the machine's evidence to a folder. The PCRs are read last, and nothing new is executed from the list's reading on.
func captureEvidence(t *testing.T, m *Machine, folder string) {
	t.Helper()
	const pcrs = "for b in sha1 sha256 sha384 sha512; do for i in $(seq 0 23); do echo $b $i $(cat /sys/class/tpm/tpm0/pcr-$b/$i); done; done"
	files := map[string]string{
		"ascii_runtime_measurements": "cat " + listPath, "binary_runtime_measurements": "cat " + filepath.Dir(listPath) + "/binary_runtime_measurements",
		"binary_bios_measurements": "cat " + bootLogPath, "pcrs.txt": pcrs, "cmdline.txt": "cat /proc/cmdline", "uname.txt": "uname -a", "policy": "cat " + guest.PolicyPath,
	}
	output(t, m, pcrs+"; uname -a; cat /dev/null") // whatever these execute is in the list now
	for name, command := range files {
		var data bytes.Buffer
		exit, err := m.Exec(t.Context(), guest.Command{Args: []string{"sh", "-c", command}, Stdout: &data})
		if err != nil || exit != 0 {
			t.Fatalf("%s: exit code %d, %v", command, exit, err)
		}
		if err := os.WriteFile(filepath.Join(folder, name), data.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
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

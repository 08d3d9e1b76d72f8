package lab

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay/stage"
	"github.com/assay-project/assay/lab/guest"
)

// TestPlacesToRunFrom: IMA's ready-made policy skips memory file systems; ours does not. Each program is caught by the name that the kernel gave it.
func TestPlacesToRunFrom(t *testing.T) {
	s := set(t)
	enrol(t, s)
	writeLoopImage(t, s)
	for _, place := range []struct {
		name, path, line string
	}{
		{"tmpfs of /dev/shm", "/dev/shm/true", `cp /bin/busybox /dev/shm/true && echo 1 >> /dev/shm/true && /dev/shm/true`},
		{"memfd", "memfd:evil", `cp /bin/busybox /tmp/true && echo 2 >> /tmp/true && memfdrun evil /tmp/true`},
		{"loop mount", "/mnt/loop/true", `mkdir -p /mnt/loop && mount -o loop /root/loop.img /mnt/loop && cp /bin/busybox /mnt/loop/true && echo 3 >> /mnt/loop/true && /mnt/loop/true`},
		{"overlay", "/mnt/merged/true", `mkdir -p /mnt/o /mnt/merged && mount -t tmpfs none /mnt/o && mkdir /mnt/o/low /mnt/o/up /mnt/o/work && ` +
			`mount -t overlay overlay -o lowerdir=/mnt/o/low,upperdir=/mnt/o/up,workdir=/mnt/o/work /mnt/merged && cp /bin/busybox /mnt/merged/true && echo 4 >> /mnt/merged/true && /mnt/merged/true`},
	} {
		t.Run(place.name, func(t *testing.T) {
			in(t, s, place.line)
			err := stage.Eventually(t.Context(), patience, "the failure "+place.path, func(ctx context.Context) (bool, error) {
				node, err := s.Client.Node(ctx, s.Agent)
				return slices.ContainsFunc(node.Failures, func(f attest.Failure) bool {
					return f.ID == attest.FileNotInPolicy && f.Path == place.path && f.Policy == policyName
				}), err
			})
			if err != nil {
				node, _ := s.Client.Node(t.Context(), s.Agent)
				t.Fatalf("%v; known: %s", err, stage.Reasons(node))
			}
		})
	}
	t.Run("rules written to securityfs", func(t *testing.T) { refusesRules(t, s) })
}

// writeLoopImage puts a small file system image into the machine.
func writeLoopImage(t *testing.T, s *stage.Stage) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "loop.img")
	if out, err := exec.Command("/sbin/mkfs.ext4", "-q", image, "8M").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	file, err := exec.Command("cat", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Machine.WriteFile(t.Context(), "/root/loop.img", 0o600, file); err != nil {
		t.Fatal(err)
	}
}

// refusesRules: after the first policy this kernel takes no second one; a kernel that did would have to be reported.
func refusesRules(t *testing.T, s *stage.Stage) {
	var out bytes.Buffer
	code, err := s.Machine.Exec(t.Context(), guest.Command{
		Args:   []string{"/bin/sh", "-c", `echo "dont_measure fsmagic=0x01021994" > /sys/kernel/security/ima/policy`},
		Stdout: &out, Stderr: &out,
	})
	if err != nil {
		t.Fatal(err)
	}
	if code != 0 {
		t.Logf("refused by the kernel: %s", strings.TrimSpace(out.String()))
		return
	}
	node := rounds(t, s, 2)
	if !slices.ContainsFunc(node.Failures, func(f attest.Failure) bool { return f.ID == attest.ImaPolicyNotApproved }) {
		t.Errorf("the kernel took other rules and nobody says so: %s", stage.Reasons(node))
	}
}

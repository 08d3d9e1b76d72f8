package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	newRoot      = "/newroot"
	securityFS   = "/sys/kernel/security"
	diskPatience = 60 * time.Second
)

// Boot is PID 1 in the initramfs. It returns only with an error; otherwise the process has become the init of the ext4 root.
//
// The kernel resolves the policy's path in the mount namespace and root of the process that writes it, so the write comes after the switch:
// the measurement list then names the file as the machine itself sees it. Where systemd is the init, the write is systemd's.
func Boot() error {
	for _, m := range pseudoFilesystems() {
		if err := m.mount(); err != nil {
			return err
		}
	}
	if err := LoadModules(InitramfsModules); err != nil {
		return err
	}
	if err := waitFor(RootDevice, diskPatience); err != nil {
		return err
	}
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", newRoot, err)
	}
	if err := unix.Mount(RootDevice, newRoot, "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount %s: %w", RootDevice, err)
	}
	if err := switchRoot(newRoot); err != nil {
		return err
	}
	if _, err := os.Stat(ServerPath); errors.Is(err, fs.ErrNotExist) {
		if err := LoadPolicy(filepath.Join(securityFS, "ima/policy"), PolicyPath); err != nil {
			return err
		}
	}
	if err := unix.Exec(InitPath, []string{InitPath}, os.Environ()); err != nil {
		return fmt.Errorf("exec %s: %w", InitPath, err)
	}
	return nil
}

type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

func (m mount) mount() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", m.target, err)
	}
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
	}
	return nil
}

// pseudoFilesystems are what the init needs before the root is there; they move over to it.
func pseudoFilesystems() []mount {
	const strict = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return []mount{
		{"proc", "/proc", "proc", strict, ""},
		{"sysfs", "/sys", "sysfs", strict, ""},
		{"securityfs", securityFS, "securityfs", strict, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	}
}

// volatileFilesystems may hold programs: tests run some from them, as an intruder would.
func volatileFilesystems() []mount {
	const strict = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return []mount{
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666"},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", strict, ""},
		{"bpf", "/sys/fs/bpf", "bpf", strict, "mode=0700"},
	}
}

// switchRoot makes target the root of this process and frees the initramfs. It is what switch_root(8) does.
func switchRoot(target string) error {
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := os.MkdirAll(target+dir, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", target+dir, err)
		}
		if err := unix.Mount(dir, target+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	for _, left := range []string{"/modules", "/init"} {
		if err := os.RemoveAll(left); err != nil {
			return fmt.Errorf("free %s: %w", left, err)
		}
	}
	if err := os.Chdir(target); err != nil {
		return fmt.Errorf("enter %s: %w", target, err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s to /: %w", target, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return os.Chdir("/")
}

// LoadPolicy hands the kernel the path of an IMA policy, through securityfs's file at policyFile. The kernel refuses a whole file for one rule
// that it does not know (security/integrity/ima/ima_policy.c), and then so do we: a machine that was to be measured does not run unmeasured.
// A machine without the file has no policy of ours.
func LoadPolicy(policyFile, path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	f, err := os.OpenFile(policyFile, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("load IMA policy %s: %w", path, err)
	}
	if _, err := f.WriteString(path); err != nil {
		f.Close()
		return fmt.Errorf("load IMA policy %s: %w", path, err)
	}
	// The rules come into force when the file is closed.
	if err := f.Close(); err != nil {
		return fmt.Errorf("load IMA policy %s: %w", path, err)
	}
	return nil
}

// LoadModules loads the kernel modules that the file order lists, one path a line. One that is loaded already is no error.
func LoadModules(order string) error {
	list, err := os.Open(order)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load modules: %w", err)
	}
	defer list.Close()
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		if path := strings.TrimSpace(lines.Text()); path != "" {
			if err := loadModule(path); err != nil {
				return err
			}
		}
	}
	return lines.Err()
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("load module: %w", err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", path, err)
	}
	return nil
}

// waitFor waits for a file: a disk appears some time after its driver.
func waitFor(path string, patience time.Duration) error {
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		_, err := os.Stat(path)
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("wait for %s: %w", path, err)
		}
	}
}

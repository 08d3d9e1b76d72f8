package agent

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// identity is who the process runs as once everything that needs rights is open.
type identity struct{ uid, gid int }

// lookupIdentity finds a user by name. Programs without cgo read /etc/passwd alone, so the user must be a local one.
func lookupIdentity(name string) (identity, error) {
	found, err := user.Lookup(name)
	if err != nil {
		return identity{}, fmt.Errorf("user %q (key user): %w; create it (useradd --system %s), name another one, or stay root with user: \"\"", name, err, name)
	}
	uid, err := strconv.Atoi(found.Uid)
	if err != nil {
		return identity{}, fmt.Errorf("user %q (key user): uid %q: %w", name, found.Uid, err)
	}
	gid, err := strconv.Atoi(found.Gid)
	if err != nil {
		return identity{}, fmt.Errorf("user %q (key user): gid %q: %w", name, found.Gid, err)
	}
	return identity{uid: uid, gid: gid}, nil
}

// handOver gives the state directory and the files in it to the user that will write them. What lies in the directory was made by a
// process with fewer rights than this one, so it goes by descriptors and follows no link.
func handOver(dir string, to identity) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("hand over state directory: %w", err)
	}
	defer root.Close()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("hand over state directory: %w", err)
	}
	for _, entry := range entries {
		if err := handOverFile(root, entry.Name(), to); err != nil {
			return fmt.Errorf("hand over %s: %w", filepath.Join(dir, entry.Name()), err)
		}
	}
	if err := root.Lchown(".", to.uid, to.gid); err != nil {
		return fmt.Errorf("hand over state directory: %w", err)
	}
	return nil
}

func handOverFile(root *os.Root, name string, to identity) error {
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("no plain file of the agent's; remove it: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	// A second name of a file may stand anywhere, so only files with one name change hands.
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || !info.Mode().IsRegular() || stat.Nlink != 1 {
		return errors.New("no plain file of the agent's; remove it")
	}
	return file.Chown(to.uid, to.gid)
}

// become changes every thread of the process to the user and its one group, for good.
func become(to identity) error {
	if err := syscall.Setgroups([]int{to.gid}); err != nil {
		return fmt.Errorf("drop groups: %w", err)
	}
	if err := syscall.Setgid(to.gid); err != nil {
		return fmt.Errorf("change to group %d: %w", to.gid, err)
	}
	if err := syscall.Setuid(to.uid); err != nil {
		return fmt.Errorf("change to user %d: %w", to.uid, err)
	}
	if to.uid != 0 && syscall.Setuid(0) == nil {
		return fmt.Errorf("change to user %d: the process can become root again", to.uid)
	}
	return nil
}

// dropCapabilities takes every capability from every thread and forbids that an exec brings some back.
func dropCapabilities() error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("set no_new_privs: %w", explainCgo(errno))
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0)
	if errno != 0 {
		return fmt.Errorf("drop capabilities: %w", explainCgo(errno))
	}
	return nil
}

// explainCgo says what the runtime's refusal means: with cgo it does not know all threads.
func explainCgo(errno syscall.Errno) error {
	if errors.Is(errno, syscall.ENOTSUP) {
		return fmt.Errorf("%w: this program was built with cgo; build it with CGO_ENABLED=0", errno)
	}
	return errno
}

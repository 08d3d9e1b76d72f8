package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Reasons why a state directory cannot be opened, for callers that branch on them.
var (
	// ErrLocked says that another process has the directory open.
	ErrLocked = errors.New("in use by another process")
	// ErrVersion says that another program, or another version of this one, wrote the directory.
	ErrVersion = errors.New("written by another program or version")
)

const (
	versionFile = "VERSION"
	lockFile    = "LOCK"
	// maxVersionBytes bounds what is read and shown of a version file that somebody else wrote.
	maxVersionBytes = 128
)

// Dir is a state directory that this process has locked.
type Dir struct {
	path string
	lock *os.File // holds the flock until it is closed; the kernel drops it when the process dies
}

// Open makes the directory with mode 0700 if it is missing, locks it for this process and compares its version with version, a
// line such as "assay-server 1"; a new directory gets it. The errors name the directory and what to do.
func Open(path, version string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory %s: %w", path, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open state directory: %w", err)
	}
	// Whoever may write here may replace the files, whatever their own modes are.
	if info.Mode().Perm()&0o002 != 0 {
		return nil, fmt.Errorf("state directory %s can be written by everybody (mode %04o): chmod 700 it", path, info.Mode().Perm())
	}
	lock, err := acquire(filepath.Join(path, lockFile))
	if err != nil {
		return nil, fmt.Errorf("state directory %s: %w", path, err)
	}
	dir := &Dir{path: path, lock: lock}
	if err := dir.checkVersion(version); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return dir, nil
}

// Path returns the path of a file in the directory.
func (d *Dir) Path(elements ...string) string {
	return filepath.Join(append([]string{d.path}, elements...)...)
}

// Close gives the directory free for another process.
func (d *Dir) Close() error {
	if err := d.lock.Close(); err != nil {
		return fmt.Errorf("close state directory %s: %w", d.path, err)
	}
	return nil
}

// acquire takes the lock. The file is never removed: a second process could hold the lock of the removed file while a third
// makes a new one.
func acquire(path string) (*os.File, error) {
	// The directory may belong to a less trusted user than this process still is: a link in the lock's place would have us truncate
	// a file of that user's choice.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("its %s is a symbolic link: remove it", lockFile)
	}
	if err != nil {
		return nil, fmt.Errorf("is not writable: %w", err)
	}
	if err := ownFile(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errors.Join(fmt.Errorf("%w%s: stop it or choose another directory", ErrLocked, holder(file)), file.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
	}
	if err := file.Truncate(0); err != nil {
		return nil, errors.Join(fmt.Errorf("is not writable: %w", err), file.Close())
	}
	if _, err := fmt.Fprintf(file, "%d\n", os.Getpid()); err != nil {
		return nil, errors.Join(fmt.Errorf("is not writable: %w", err), file.Close())
	}
	return file, nil
}

// ownFile refuses a lock that is no regular file, or that has another name elsewhere.
func ownFile(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("look at its %s: %w", lockFile, err)
	}
	status, ok := info.Sys().(*syscall.Stat_t)
	if !info.Mode().IsRegular() || !ok || status.Nlink != 1 {
		return fmt.Errorf("its %s is not a regular file with one name: remove it", lockFile)
	}
	return nil
}

// holder reads the process id that the lock's holder wrote; it serves the error text only.
func holder(file *os.File) string {
	text := make([]byte, 16)
	n, _ := file.ReadAt(text, 0) // an empty or unreadable file leaves the id out
	pid := strings.TrimSpace(string(text[:n]))
	if pid == "" {
		return ""
	}
	return fmt.Sprintf(" (process %q)", pid)
}

func (d *Dir) checkVersion(want string) error {
	path := d.Path(versionFile)
	have, err := readVersion(path)
	if errors.Is(err, fs.ErrNotExist) {
		return WriteFile(path, []byte(want+"\n"), 0o600)
	}
	if err != nil {
		return err
	}
	if have != want {
		return fmt.Errorf("state directory %s: %w: it holds %q, this program needs %q", d.path, ErrVersion, have, want)
	}
	return nil
}

func readVersion(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read version of state directory: %w", err)
	}
	defer file.Close()
	text := make([]byte, maxVersionBytes)
	n, err := file.Read(text)
	if err != nil && n == 0 {
		return "", fmt.Errorf("read version of state directory: %s: %w", path, err)
	}
	return strings.TrimSpace(string(text[:n])), nil
}

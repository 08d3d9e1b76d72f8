// Package debian makes the file tree of a small Debian system with systemd, of the host's own release, from the packages of its apt. It runs no
// script of a package, so it needs no root and no chroot; it trusts apt to have checked what it hands out. The lab makes machines of the tree.
package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/lab/host"
)

// wanted are what a small server has. apt adds what they depend on; usr-is-merged spares it the perl of usrmerge.
var wanted = []string{
	"base-files", "base-passwd", "usr-is-merged", "libc-bin", "bash", "dash", "coreutils", "findutils", "grep", "sed", "util-linux", "mount",
	"login", "passwd", "sudo", "kmod", "udev", "systemd", "systemd-sysv",
}

const (
	unpackedBytes = 256 << 20
	prefix        = "debian-"
	// recipe changes when configure does: what it made before is then no longer taken from the cache.
	recipe = "2"
)

// ErrNoPackages says that the packages of a Debian system could not be had.
var ErrNoPackages = errors.New("no Debian packages")

// Fetch returns the folder of a Debian system of the host's own release, unpacked and as good as installed, from the cache folder, which
// it fills through apt if need be. The same packages in the same versions are the same folder. Where apt has no answer, the newest such
// folder of the cache serves. Nobody but the lab may write into it.
func Fetch(ctx context.Context, cache string, progress func(string)) (string, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make cache folder: %w", err)
	}
	packages, err := resolve(ctx, wanted)
	if err != nil {
		return newest(cache, err, progress)
	}
	sum := sha256.Sum256([]byte(recipe + "\n" + strings.Join(packages, "\n")))
	folder := filepath.Join(cache, prefix+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(folder); err == nil {
		return folder, nil
	}
	progress(fmt.Sprintf("fetching %d Debian packages", len(packages)))
	if err := host.CheckSpace(cache, unpackedBytes); err != nil {
		return "", fmt.Errorf("unpack a Debian system: %w", err)
	}
	if err := fetch(ctx, cache, folder, packages); err != nil {
		return newest(cache, err, progress)
	}
	return folder, nil
}

func newest(cache string, why error, progress func(string)) (string, error) {
	folders, err := filepath.Glob(filepath.Join(cache, prefix+"*"))
	if err != nil || len(folders) == 0 {
		return "", fmt.Errorf("%w: %w", ErrNoPackages, why)
	}
	latest := slices.MaxFunc(folders, func(a, b string) int { return host.ModTime(a).Compare(host.ModTime(b)) })
	progress("taking the Debian system of the cache: " + why.Error())
	return latest, nil
}

// resolve asks apt what would be installed on a machine that has nothing, as NAME=VERSION.
func resolve(ctx context.Context, names []string) ([]string, error) {
	tool, err := host.Program("apt-get", "apt")
	if err != nil {
		return nil, err
	}
	args := []string{"-qq", "-o", "Dir::State::status=/dev/null", "-o", "Debug::NoLocking=1", "--no-install-recommends", "--print-uris", "install"}
	out, err := host.RunTool(exec.CommandContext(ctx, tool, append(args, names...)...))
	if err != nil {
		return nil, err
	}
	var packages []string
	for line := range strings.Lines(out) {
		fields := strings.Fields(line) // 'URI' NAME_VERSION_ARCH.deb SIZE SUM
		if len(fields) < 2 {
			continue
		}
		part := strings.Split(fields[1], "_")
		if len(part) != 3 || !strings.HasSuffix(part[2], ".deb") {
			return nil, fmt.Errorf("apt names a file %q: want NAME_VERSION_ARCH.deb", fields[1])
		}
		packages = append(packages, part[0]+"="+strings.ReplaceAll(part[1], "%3a", ":"))
	}
	if len(packages) < len(names) {
		return nil, fmt.Errorf("apt would install %d packages where %d were asked for", len(packages), len(names))
	}
	slices.Sort(packages)
	return packages, nil
}

// fetch downloads and unpacks packages into folder. What an interrupted run leaves never bears that name.
func fetch(ctx context.Context, cache, folder string, packages []string) error {
	work, err := os.MkdirTemp(cache, ".fetch-*")
	if err != nil {
		return fmt.Errorf("make work folder: %w", err)
	}
	defer os.RemoveAll(work)
	apt, err := host.Program("apt-get", "apt")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, apt, append([]string{"download", "-q"}, packages...)...)
	cmd.Dir = work
	if _, err := host.RunTool(cmd); err != nil {
		return err
	}
	archives, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(archives) != len(packages) {
		return fmt.Errorf("apt-get download left %d packages of %d", len(archives), len(packages))
	}
	tree := filepath.Join(work, "tree")
	if err := mergeUsr(tree); err != nil {
		return fmt.Errorf("unpack packages: %w", err)
	}
	for _, archive := range archives {
		if err := unpack(ctx, archive, tree); err != nil {
			return fmt.Errorf("unpack packages: %w", err)
		}
	}
	if err := configure(tree); err != nil {
		return fmt.Errorf("configure packages: %w", err)
	}
	// Packages bring times of their own; this one says which folder is the newest.
	if err := os.Chtimes(tree, time.Now(), time.Now()); err != nil {
		return fmt.Errorf("keep packages: %w", err)
	}
	if err := os.Rename(tree, folder); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keep packages: %w", err)
	}
	return nil
}

// mergeUsr makes the links that a Debian has before its first package.
func mergeUsr(tree string) error {
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.MkdirAll(filepath.Join(tree, "usr", dir), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("usr/"+dir, filepath.Join(tree, dir)); err != nil {
			return err
		}
	}
	return nil
}

// unpack leaves the links of mergeUsr alone, which dpkg-deb's own -x replaces.
func unpack(ctx context.Context, archive, tree string) error {
	dpkg, err := host.Program("dpkg-deb", "dpkg")
	if err != nil {
		return err
	}
	tar, err := host.Program("tar", "tar")
	if err != nil {
		return err
	}
	read := exec.CommandContext(ctx, dpkg, "--fsys-tarfile", archive)
	write := exec.CommandContext(ctx, tar, "-x", "--keep-directory-symlink", "-C", tree)
	if write.Stdin, err = read.StdoutPipe(); err != nil {
		return err
	}
	if err := read.Start(); err != nil {
		return err
	}
	_, err = host.RunTool(write)
	return errors.Join(err, read.Wait())
}

// configure does what the packages' own scripts would do to a new system, as far as programs notice, and takes the manuals away.
func configure(tree string) error {
	for _, dir := range []string{"usr/local/bin", "usr/local/sbin", "usr/local/lib"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{"doc", "info", "locale", "man"} {
		if err := os.RemoveAll(filepath.Join(tree, "usr/share", dir)); err != nil {
			return err
		}
	}
	for file, line := range map[string]string{"auth": "auth", "account": "account", "password": "password", "session": "session", "session-noninteractive": "session"} {
		if err := os.WriteFile(filepath.Join(tree, "etc/pam.d/common-"+file), []byte(line+" required pam_unix.so\n"), 0o644); err != nil {
			return err
		}
	}
	return makeAccounts(tree)
}

// makeAccounts writes the accounts that every Debian has; nobody has a password.
func makeAccounts(tree string) error {
	for _, name := range []string{"passwd", "group"} {
		master, err := os.ReadFile(filepath.Join(tree, "usr/share/base-passwd", name+".master"))
		if err != nil {
			return err
		}
		var shadow strings.Builder
		for line := range strings.Lines(string(master)) {
			account, _, _ := strings.Cut(line, ":")
			shadow.WriteString(account + map[string]string{"passwd": ":*:19000:0:99999:7:::\n", "group": ":*::\n"}[name])
		}
		secret := map[string]string{"passwd": "shadow", "group": "gshadow"}[name]
		if err := errors.Join(os.WriteFile(filepath.Join(tree, "etc", name), master, 0o644),
			os.WriteFile(filepath.Join(tree, "etc", secret), []byte(shadow.String()), 0o600)); err != nil {
			return err
		}
	}
	return nil
}

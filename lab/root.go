package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/assay-project/assay/lab/guest"
	"github.com/assay-project/assay/lab/host"
)

// Accounts of a machine: root, and assay for an agent that drops its rights.
const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nassay:x:990:990:assay:/var/lib/assay:/bin/sh\n"
	group  = "root:x:0:\nassay:x:990:\n"
	hosts  = "127.0.0.1 localhost lab\n" + guest.Gateway + " host\n"
)

// stageRoot makes the tree that becomes the machine's root file system.
func stageRoot(ctx context.Context, tree string, cfg Config, s spec, modules []module) error {
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return fmt.Errorf("stage root: %w", err)
	}
	if cfg.System == Debian {
		if err := copyDebian(ctx, cfg, tree); err != nil {
			return err
		}
	}
	if cfg.Tree != "" {
		if err := os.CopyFS(tree, os.DirFS(cfg.Tree)); err != nil {
			return fmt.Errorf("copy %s: %w", cfg.Tree, err)
		}
	}
	own, err := labFiles(cfg, s, modules)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		return fmt.Errorf("stage root: %w", err)
	}
	defer root.Close()
	for _, f := range slices.Concat(cfg.Files, own) {
		if err := f.place(root); err != nil {
			return err
		}
	}
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", "mnt", "root", "var/log", "var/lib/assay", "usr/bin", "usr/sbin"} {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("stage root: %w", err)
		}
	}
	if cfg.System == Debian {
		return nil
	}
	return addBusybox(ctx, root)
}

// labFiles are what the machine's init reads, and what every program expects of a system unless the caller brought it.
func labFiles(cfg Config, s spec, modules []module) ([]File, error) {
	services, err := json.MarshalIndent(cfg.Services, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode services: %w", err)
	}
	files := []File{{Path: guest.KeyPath, Mode: 0o600, Data: []byte(s.Key)}}
	if cfg.System == Debian {
		files = append(files, debianFiles(cfg)...)
	} else {
		files = append(files, File{Path: guest.InitPath, Mode: 0o755, Source: cfg.Init})
	}
	if len(cfg.Services) > 0 {
		files = append(files, File{Path: guest.ServicesPath, Mode: 0o644, Data: services})
	}
	if len(s.Taps) > 0 {
		cards, err := json.MarshalIndent(cards(s.Taps), "", "  ")
		if err != nil {
			return nil, fmt.Errorf("encode cards: %w", err)
		}
		files = append(files, File{Path: guest.CardsPath, Mode: 0o644, Data: cards})
	}
	if len(cfg.IMAPolicy) > 0 {
		files = append(files, File{Path: guest.PolicyPath, Mode: 0o644, Data: cfg.IMAPolicy})
	}
	var order strings.Builder
	for _, m := range modules {
		path := "/lib/modules/" + s.Release + "/" + m.path
		fmt.Fprintln(&order, path)
		files = append(files, File{Path: path, Mode: 0o644, Data: m.data})
	}
	files = append(files, File{Path: guest.ModulesPath, Mode: 0o644, Data: []byte(order.String())})
	return files, nil
}

// place writes a file into the tree, over whatever is there. A tree may have links that point at absolute paths, which mean the machine's
// and not the host's: os.Root refuses to follow them out of the tree.
func (f File) place(tree *os.Root) error {
	if err := f.write(tree, strings.TrimPrefix(f.Path, "/")); err != nil {
		return fmt.Errorf("place %s: %w", f.Path, err)
	}
	return nil
}

func (f File) write(tree *os.Root, name string) error {
	if err := tree.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := tree.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if f.Link != "" {
		return tree.Symlink(f.Link, name)
	}
	var from io.Reader = bytes.NewReader(f.Data)
	if f.Source != "" {
		source, err := os.Open(f.Source)
		if err != nil {
			return err
		}
		defer source.Close()
		from = source
	}
	out, err := tree.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, from)
	// The umask has no say in what a machine holds.
	return errors.Join(err, out.Chmod(f.Mode.Perm()), out.Close())
}

// addBusybox gives the tree busybox and its names, and the accounts, where the caller has not brought his own.
func addBusybox(ctx context.Context, tree *os.Root) error {
	busybox, err := staticBusybox()
	if err != nil {
		return err
	}
	names, err := host.RunTool(exec.CommandContext(ctx, busybox, "--list"))
	if err != nil {
		return fmt.Errorf("list busybox: %w", err)
	}
	files := []File{
		{Path: "/bin/busybox", Mode: 0o755, Source: busybox},
		{Path: "/etc/passwd", Mode: 0o644, Data: []byte(passwd)},
		{Path: "/etc/group", Mode: 0o644, Data: []byte(group)},
		{Path: "/etc/hosts", Mode: 0o644, Data: []byte(hosts)},
	}
	for name := range strings.Lines(names) {
		if name = strings.TrimSpace(name); name != "busybox" && name != "init" {
			files = append(files, File{Path: "/bin/" + name, Link: "busybox"})
		}
	}
	for _, f := range files {
		if _, err := tree.Lstat(f.Path[1:]); err == nil {
			continue
		}
		if err := f.place(tree); err != nil {
			return err
		}
	}
	return nil
}

// makeDisk makes an ext4 image of the tree with spare room. The image is sparse: only the content takes space at first.
func makeDisk(ctx context.Context, image, tree string, spareMiB int) error {
	content, err := treeBytes(tree)
	if err != nil {
		return fmt.Errorf("size of %s: %w", tree, err)
	}
	if err := host.CheckSpace(filepath.Dir(image), content+content/8+64<<20); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	mkfs, err := host.Program("mkfs.ext4", "e2fsprogs")
	if err != nil {
		return err
	}
	mib := (content+content/8)>>20 + int64(spareMiB)
	cmd := exec.CommandContext(ctx, mkfs, "-q", "-F", "-L", "lab", "-J", "size=8", "-E", "root_owner=0:0", "-d", tree, image, fmt.Sprintf("%dM", mib))
	if _, err := host.RunTool(cmd); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	return nil
}

// treeBytes is the room that a tree takes, counting each file as whole blocks.
func treeBytes(tree string) (int64, error) {
	const block = 4096
	var total int64
	err := filepath.WalkDir(tree, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		total += (info.Size()/block + 1) * block
		return nil
	})
	return total, err
}

package lab

import (
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/assay-project/assay/lab/guest"
	"github.com/cavaliergopher/cpio"
)

// writeInitramfs writes the archive that the kernel unpacks: the init, the modules that reach the disk and the mount points.
func writeInitramfs(file, initPath string, modules []module) (err error) {
	program, err := os.ReadFile(initPath)
	if err != nil {
		return fmt.Errorf("read init: %w", err)
	}
	out, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	// An emulated CPU unpacks it on each boot, which costs more than the bytes.
	zip, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	archive := cpio.NewWriter(zip)
	if err := fillInitramfs(archive, program, modules); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	if err := zip.Close(); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	return nil
}

func fillInitramfs(archive *cpio.Writer, program []byte, modules []module) error {
	moduleDir := path.Dir(guest.InitramfsModules)
	for _, dir := range []string{"/dev", "/proc", "/sys", moduleDir} {
		head := &cpio.Header{Name: dir[1:], Mode: cpio.TypeDir | 0o755, Links: 2}
		if err := archive.WriteHeader(head); err != nil {
			return err
		}
	}
	var order strings.Builder
	for _, m := range modules {
		name := path.Join(moduleDir, m.name+".ko")
		fmt.Fprintln(&order, name)
		if err := addToInitramfs(archive, name, 0o644, m.data); err != nil {
			return err
		}
	}
	if err := addToInitramfs(archive, guest.InitramfsModules, 0o644, []byte(order.String())); err != nil {
		return err
	}
	return addToInitramfs(archive, "/init", 0o755, program)
}

func addToInitramfs(archive *cpio.Writer, name string, mode cpio.FileMode, data []byte) error {
	head := &cpio.Header{Name: name[1:], Mode: cpio.TypeReg | mode, Size: int64(len(data)), Links: 1}
	if err := archive.WriteHeader(head); err != nil {
		return err
	}
	_, err := archive.Write(data)
	return err
}

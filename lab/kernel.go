package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/assay-project/assay/lab/host"
)

// metaPackage depends on the newest kernel that the distribution builds for clouds: small, with IMA, BPF LSM and TPM drivers.
const metaPackage = "linux-image-cloud-amd64"

const unpackedKernelBytes = 256 << 20

// ErrNoKernel says that no kernel package could be had.
var ErrNoKernel = errors.New("no kernel package")

// A Kernel is an unpacked kernel package.
type Kernel struct {
	Release string // as uname -r prints it
	Image   string
	Modules string // folder of the modules of this release
}

// FetchKernel returns the cloud kernel of the host's own release from the cache folder, which it fills through apt if need be. Where
// apt has no answer, the newest kernel of the cache serves.
func FetchKernel(ctx context.Context, cache string, progress func(string)) (Kernel, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Kernel{}, fmt.Errorf("make cache folder: %w", err)
	}
	name, aptErr := kernelPackage(ctx)
	if aptErr != nil {
		if k, err := newestKernel(cache); err == nil {
			return k, nil
		}
		return Kernel{}, aptErr
	}
	folder := filepath.Join(cache, name)
	if k, err := openKernel(folder); err == nil {
		return k, nil
	}
	progress("fetching kernel package " + name)
	if err := host.CheckSpace(cache, unpackedKernelBytes); err != nil {
		return Kernel{}, fmt.Errorf("kernel package %s: %w", name, err)
	}
	if err := fetchPackage(ctx, cache, name); err != nil {
		if k, cached := newestKernel(cache); cached == nil {
			progress("taking the kernel " + k.Release + " of the cache: " + err.Error())
			return k, nil
		}
		return Kernel{}, fmt.Errorf("%w %s: %w", ErrNoKernel, name, err)
	}
	return openKernel(folder)
}

// kernelPackage asks apt which package the meta package stands for.
func kernelPackage(ctx context.Context) (string, error) {
	tool, err := host.Program("apt-cache", "apt")
	if err != nil {
		return "", err
	}
	out, err := host.RunTool(exec.CommandContext(ctx, tool, "depends", "--important", metaPackage))
	if err != nil {
		return "", fmt.Errorf("%w: apt does not know %s: run apt-get update (%w)", ErrNoKernel, metaPackage, err)
	}
	for line := range strings.Lines(out) {
		name, found := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
		if found && strings.HasPrefix(name, "linux-image-") {
			return name, nil
		}
	}
	return "", fmt.Errorf("%w: %s depends on no kernel image: %s", ErrNoKernel, metaPackage, host.LastLines(out, 4))
}

// fetchPackage downloads and unpacks one package into cache/name. What an interrupted run leaves never bears that name.
func fetchPackage(ctx context.Context, cache, name string) error {
	work, err := os.MkdirTemp(cache, ".fetch-*")
	if err != nil {
		return fmt.Errorf("make work folder: %w", err)
	}
	defer os.RemoveAll(work)
	apt, err := host.Program("apt-get", "apt")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, apt, "download", "-q", name)
	cmd.Dir = work
	if _, err := host.RunTool(cmd); err != nil {
		return err
	}
	archives, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(archives) != 1 {
		return fmt.Errorf("apt-get download left %d packages", len(archives))
	}
	dpkg, err := host.Program("dpkg-deb", "dpkg")
	if err != nil {
		return err
	}
	tree := filepath.Join(work, "tree")
	if _, err := host.RunTool(exec.CommandContext(ctx, dpkg, "-x", archives[0], tree)); err != nil {
		return err
	}
	if err := os.Rename(tree, filepath.Join(cache, name)); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("keep package: %w", err)
	}
	return nil
}

// openKernel finds the parts of an unpacked package.
func openKernel(folder string) (Kernel, error) {
	images, err := filepath.Glob(filepath.Join(folder, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return Kernel{}, fmt.Errorf("%w: %s holds %d kernel images", ErrNoKernel, folder, len(images))
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	for _, lib := range []string{"lib/modules", "usr/lib/modules"} {
		dir := filepath.Join(folder, lib, release)
		if _, err := os.Stat(filepath.Join(dir, "modules.builtin")); err == nil {
			return Kernel{Release: release, Image: images[0], Modules: dir}, nil
		}
	}
	return Kernel{}, fmt.Errorf("%w: %s holds no modules of %s", ErrNoKernel, folder, release)
}

func newestKernel(cache string) (Kernel, error) {
	folders, err := filepath.Glob(filepath.Join(cache, "linux-image-*-amd64"))
	if err != nil {
		return Kernel{}, fmt.Errorf("look into cache: %w", err)
	}
	slices.SortFunc(folders, func(a, b string) int { return host.ModTime(b).Compare(host.ModTime(a)) })
	for _, folder := range folders {
		if k, err := openKernel(folder); err == nil {
			return k, nil
		}
	}
	return Kernel{}, fmt.Errorf("%w in %s", ErrNoKernel, cache)
}

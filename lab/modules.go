package lab

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ulikunitz/xz"
)

// maxModuleBytes bounds a decompressed module; the largest of Debian's are 10 MiB.
const maxModuleBytes = 64 << 20

// The modules of a machine: what reaches its disk before the root file system is there, and what is loaded from that, measured.
var (
	diskModules = []string{"virtio_pci", "virtio_blk", "ext4"}
	rootModules = []string{"virtio_rng", "virtio_net", "loop", "overlay"}
)

// A module is one kernel module, decompressed.
type module struct {
	name string
	path string // below the folder of the release, such as kernel/drivers/block/loop.ko
	data []byte
}

// A moduleSet finds modules of an unpacked kernel package. Such a package has no modules.dep: depmod writes that on installation; the modules
// themselves name what they need.
type moduleSet struct {
	dir     string
	files   map[string]string // module name -> path below dir
	builtin map[string]bool
}

func openModules(dir string) (*moduleSet, error) {
	s := &moduleSet{dir: dir, files: map[string]string{}, builtin: map[string]bool{}}
	list, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("read modules: %w", err)
	}
	for line := range strings.Lines(string(list)) {
		s.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	err = fs.WalkDir(os.DirFS(dir), "kernel", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.Contains(filepath.Base(path), ".ko") {
			s.files[moduleName(path)] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read modules: %w", err)
	}
	return s, nil
}

// moduleName is a module's name as the kernel has it: file names may have dashes.
func moduleName(path string) string {
	base, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

// resolve returns the named modules and what they depend on, each after its dependencies, without those that are part of the kernel or in
// have. A kernel that has a module neither as a file nor built in is an error.
func (s *moduleSet) resolve(names []string, have map[string]bool) ([]module, error) {
	var order []module
	var visit func(name string) error
	visit = func(name string) error {
		name = moduleName(name)
		if have[name] || s.builtin[name] {
			return nil
		}
		have[name] = true
		m, needs, err := s.read(name)
		if err != nil {
			return err
		}
		for _, need := range needs {
			if err := visit(need); err != nil {
				return fmt.Errorf("%s needs: %w", name, err)
			}
		}
		order = append(order, m)
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

func (s *moduleSet) read(name string) (module, []string, error) {
	path, ok := s.files[name]
	if !ok {
		return module{}, nil, fmt.Errorf("kernel module %s: not in %s", name, s.dir)
	}
	data, err := decompress(filepath.Join(s.dir, path))
	if err != nil {
		return module{}, nil, fmt.Errorf("kernel module %s: %w", name, err)
	}
	needs, err := dependencies(data)
	if err != nil {
		return module{}, nil, fmt.Errorf("kernel module %s: %w", path, err)
	}
	plain, _, _ := strings.Cut(path, ".ko")
	return module{name: name, path: plain + ".ko", data: data}, needs, nil
}

// decompress reads a module. Debian 12 ships them plain, Debian 13 as xz; the init wants them plain.
func decompress(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	switch filepath.Ext(path) {
	case ".ko":
	case ".xz":
		if r, err = xz.NewReader(f); err != nil {
			return nil, fmt.Errorf("decompress: %w", err)
		}
	default:
		return nil, fmt.Errorf("compression %s is not known", filepath.Ext(path))
	}
	data, err := io.ReadAll(io.LimitReader(r, maxModuleBytes+1))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if len(data) > maxModuleBytes {
		return nil, fmt.Errorf("larger than %d MiB", maxModuleBytes>>20)
	}
	return data, nil
}

// dependencies reads the depends= entry of a module's .modinfo section (include/linux/module.h).
func dependencies(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read module: %w", err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read .modinfo: %w", err)
	}
	for _, entry := range strings.Split(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}

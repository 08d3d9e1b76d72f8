package cluster

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/assay-project/assay/lab"
)

// A transplant collects programs of the host, with the libraries that they are linked to, for a lab machine, which has none.
type transplant struct {
	files map[string]lab.File // by path in the machine
}

// libraryFolders are where Debian's linker looks.
func libraryFolders() []string {
	triple := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	return []string{"/usr/lib/" + triple, "/lib/" + triple, "/usr/lib", "/lib", "/usr/lib64", "/lib64"}
}

// program takes a program of the host to the machine's path, which is found in PATH unless it is absolute.
func (t *transplant) program(name, path string) error {
	source, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("take %s: %w", name, err)
	}
	if source, err = filepath.EvalSymlinks(source); err != nil {
		return fmt.Errorf("take %s: %w", name, err)
	}
	t.add(path, source)
	return t.libraries(source)
}

func (t *transplant) add(path, source string) {
	t.files[path] = lab.File{Path: path, Mode: 0o755, Source: source}
}

func (t *transplant) link(path, to string) { t.files[path] = lab.File{Path: path, Link: to} }

// libraries takes what an ELF file needs at the paths that the host has them at, and what those need.
func (t *transplant) libraries(source string) error {
	f, err := elf.Open(source)
	if err != nil {
		return fmt.Errorf("take %s: %w", source, err)
	}
	defer f.Close()
	needs, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("take %s: %w", source, err)
	}
	paths, err := findLibraries(needs)
	if err != nil {
		return fmt.Errorf("take %s: %w", source, err)
	}
	if linker := interpreter(f); linker != "" {
		paths = append(paths, linker)
	}
	for _, path := range paths {
		if _, have := t.files[path]; have {
			continue
		}
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return fmt.Errorf("take %s: %w", path, err)
		}
		t.add(path, real)
		if err := t.libraries(real); err != nil {
			return err
		}
	}
	return nil
}

func findLibraries(names []string) ([]string, error) {
	var paths []string
	for _, name := range names {
		i := slices.IndexFunc(libraryFolders(), func(dir string) bool {
			_, err := os.Stat(filepath.Join(dir, name))
			return err == nil
		})
		if i < 0 {
			return nil, fmt.Errorf("library %s: %w", name, fs.ErrNotExist)
		}
		paths = append(paths, filepath.Join(libraryFolders()[i], name))
	}
	return paths, nil
}

// interpreter is the dynamic linker that an executable names, "" if it is static.
func interpreter(f *elf.File) string {
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		name := make([]byte, p.Filesz)
		if _, err := p.ReadAt(name, 0); err != nil {
			return ""
		}
		for i, b := range name {
			if b == 0 {
				return string(name[:i])
			}
		}
	}
	return ""
}

// folder takes the files of a folder of the host that are ELF, to the same place.
func (t *transplant) folder(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("take %s: %w", dir, err)
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		source, err := filepath.EvalSymlinks(path)
		if err != nil {
			return fmt.Errorf("take %s: %w", path, err)
		}
		var notELF *elf.FormatError
		if err := t.libraries(source); errors.As(err, &notELF) {
			continue
		} else if err != nil {
			return err
		}
		t.add(path, source)
	}
	return nil
}

package images

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

// machines are the ELF names of Architectures.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// multiarch are Debian's names of the folders that libraries lie in.
var multiarch = map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}

func checkELF(data []byte, architecture string) error {
	if err := knownArchitecture(architecture); err != nil {
		return err
	}
	program, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("not a program: %w", err)
	}
	if program.Machine != machines[architecture] {
		return fmt.Errorf("a program for %s, not for %s", program.Machine, architecture)
	}
	if libraries, err := program.ImportedLibraries(); err == nil && len(libraries) > 0 {
		return fmt.Errorf("linked with %v: build with CGO_ENABLED=0", libraries)
	}
	return nil
}

// A tree is the files of some packages, by path.
type tree map[string]File

// linked returns the paths of the programs and of everything that the dynamic linker opens to start them: itself, libraries, and the links
// on the way to them. It looks where Debian's linker looks, at the program's run paths first.
func (t tree) linked(programs []string, architecture string) ([]string, error) {
	seen := map[string]bool{}
	queue := slices.Clone(programs)
	for len(queue) > 0 {
		file := queue[0]
		queue = queue[1:]
		if seen[file] {
			continue
		}
		seen[file] = true
		f, ok := t[file]
		if !ok {
			return nil, fmt.Errorf("%s: no package holds it", file)
		}
		if f.Mode&os.ModeSymlink != 0 {
			queue = append(queue, target(f))
			continue
		}
		needs, err := t.needs(f, architecture)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		queue = append(queue, needs...)
	}
	paths := make([]string, 0, len(seen))
	for file := range seen {
		paths = append(paths, file)
	}
	slices.Sort(paths)
	return paths, nil
}

// needs are the linker and the libraries that one ELF file names.
func (t tree) needs(f File, architecture string) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(f.Data))
	if err != nil {
		return nil, fmt.Errorf("not a program or library: %w", err)
	}
	var needs []string
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP && segment.Filesz < 4096 {
			linker := make([]byte, segment.Filesz)
			if _, err := segment.ReadAt(linker, 0); err != nil {
				return nil, fmt.Errorf("name of its linker: %w", err)
			}
			needs = append(needs, merged(strings.Trim(string(linker), "/\x00")))
		}
	}
	var folders []string
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		values, err := file.DynString(tag)
		if err != nil {
			return nil, fmt.Errorf("run path: %w", err)
		}
		for _, value := range values {
			for folder := range strings.SplitSeq(strings.ReplaceAll(value, "$ORIGIN", "/"+path.Dir(f.Path)), ":") {
				folders = append(folders, merged(strings.TrimPrefix(path.Clean(folder), "/")))
			}
		}
	}
	folders = append(folders, "usr/lib/"+multiarch[architecture], "usr/lib", "usr/lib64")
	names, err := file.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("names of its libraries: %w", err)
	}
	for _, name := range names {
		at := slices.IndexFunc(folders, func(folder string) bool { _, ok := t[path.Join(folder, name)]; return ok })
		if at < 0 {
			return nil, fmt.Errorf("library %s: no package holds it", name)
		}
		needs = append(needs, path.Join(folders[at], name))
	}
	return needs, nil
}

// target is where a symbolic link leads, as a path from the root.
func target(f File) string {
	if strings.HasPrefix(f.Link, "/") {
		return merged(path.Clean(f.Link)[1:])
	}
	return merged(path.Join(path.Dir(f.Path), f.Link))
}

// merged maps a path to where it lies since Debian merged /bin, /lib and /sbin into /usr.
func merged(name string) string {
	first, _, _ := strings.Cut(name, "/")
	if slices.Contains(mergedFolders(), first) {
		return "usr/" + name
	}
	return name
}

func mergedFolders() []string { return []string{"bin", "lib", "lib64", "sbin"} }

package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ErrNoPackages says that apt could not bring the Debian packages of an image.
var ErrNoPackages = errors.New("apt could not bring the Debian packages")

// listsAge is for how long apt's lists of packages are taken as they are.
const listsAge = 24 * time.Hour

// Apt fetches packages of another machine than this one: apt's own lists and archives for one architecture, under Cache. The sources and keys
// are those of this machine, so apt verifies what it brings; nothing is installed and no script of a package runs.
type Apt struct {
	Cache        string
	Architecture string
}

// DebianFiles are the files of an image made of Debian packages: its programs, what the linker needs to start them, their configuration,
// and the licence of each package that something was taken from. Tools that scan images find the packages in var/lib/dpkg/status.d.
func (i Image) DebianFiles(ctx context.Context, apt Apt) ([]File, error) {
	archives, err := apt.fetch(ctx, i.Packages)
	if err != nil {
		return nil, fmt.Errorf("image %s for %s: %w", i.Name, apt.Architecture, err)
	}
	var packages []debian
	for _, archive := range archives {
		data, err := os.ReadFile(archive)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", i.Name, err)
		}
		p, err := parseDebian(data)
		if err != nil {
			return nil, fmt.Errorf("image %s: %s: %w", i.Name, filepath.Base(archive), err)
		}
		packages = append(packages, p)
	}
	files, err := choose(packages, i, apt.Architecture)
	if err != nil {
		return nil, fmt.Errorf("image %s for %s: %w", i.Name, apt.Architecture, err)
	}
	return files, nil
}

// choose takes from the packages what the image needs.
func choose(packages []debian, i Image, architecture string) ([]File, error) {
	all := tree{}
	for _, p := range packages {
		for _, f := range p.files {
			all[f.Path] = f
		}
	}
	linked, err := all.linked(i.Programs, architecture)
	if err != nil {
		return nil, err
	}
	var chosen []File
	for _, folder := range mergedFolders() {
		chosen = append(chosen, File{Path: folder, Mode: os.ModeSymlink | 0o777, Link: "usr/" + folder})
	}
	for _, p := range packages {
		named := slices.Contains(i.Packages, p.name())
		used := false
		for _, f := range p.files {
			wanted := slices.Contains(linked, f.Path) || named && strings.HasPrefix(f.Path, "etc/")
			if wanted {
				chosen, used = append(chosen, f), true
			}
		}
		if used || named {
			chosen = append(chosen, p.notices(all)...)
		}
	}
	return chosen, nil
}

// notices are the package's licence and its entry for tools that scan images.
func (p debian) notices(all tree) []File {
	notices := []File{{Path: "var/lib/dpkg/status.d/" + p.name(), Mode: 0o644, Data: p.control}}
	for _, f := range p.files {
		if path.Base(f.Path) == "copyright" && strings.HasPrefix(f.Path, "usr/share/doc/") {
			notices = append(notices, f)
		}
		// Packages of one source may share one folder of documents.
		if f.Path == "usr/share/doc/"+p.name() && f.Mode&os.ModeSymlink != 0 {
			if shared, ok := all[target(f)+"/copyright"]; ok {
				shared.Path = f.Path + "/copyright"
				notices = append(notices, shared)
			}
		}
	}
	return notices
}

// fetch returns the archives of the packages and of all that they depend on, in the order of their names.
func (a Apt) fetch(ctx context.Context, packages []string) ([]string, error) {
	if err := knownArchitecture(a.Architecture); err != nil {
		return nil, err
	}
	if err := a.update(ctx); err != nil {
		return nil, err
	}
	install := append([]string{"-qq", "--yes", "--no-install-recommends", "install"}, packages...)
	if _, err := a.run(ctx, append([]string{"--download-only"}, install...)); err != nil {
		return nil, err
	}
	plan, err := a.run(ctx, append([]string{"--simulate"}, install...))
	if err != nil {
		return nil, err
	}
	names, err := planned(plan)
	if err != nil {
		return nil, err
	}
	archives := make([]string, 0, len(names))
	for _, name := range names {
		archives = append(archives, filepath.Join(a.folder(), "cache", "archives", name))
	}
	return archives, nil
}

// planned reads the file names of packages from the lines "Inst NAME (VERSION ORIGIN [ARCHITECTURE]) ..." of a simulated installation.
func planned(plan string) ([]string, error) {
	var names []string
	for line := range strings.Lines(plan) {
		rest, found := strings.CutPrefix(line, "Inst ")
		if !found {
			continue
		}
		name, rest, _ := strings.Cut(rest, " (")
		name, _, _ = strings.Cut(name, ":")
		version, rest, _ := strings.Cut(rest, " ")
		_, rest, _ = strings.Cut(rest, "[")
		architecture, _, found := strings.Cut(rest, "])")
		if !found {
			return nil, fmt.Errorf("%w: apt's plan has the line %q", ErrNoPackages, strings.TrimSpace(line))
		}
		names = append(names, name+"_"+strings.ReplaceAll(version, ":", "%3a")+"_"+architecture+".deb")
	}
	slices.Sort(names)
	if len(names) == 0 {
		return nil, fmt.Errorf("%w: apt plans to install nothing", ErrNoPackages)
	}
	return names, nil
}

func (a Apt) folder() string { return filepath.Join(a.Cache, a.Architecture) }

// update brings the lists of packages. Older lists serve where the network does not answer.
func (a Apt) update(ctx context.Context) error {
	stamp := filepath.Join(a.folder(), "updated")
	info, err := os.Stat(stamp)
	if err == nil && time.Since(info.ModTime()) < listsAge {
		return nil
	}
	for _, folder := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.folder(), folder), 0o755); err != nil {
			return fmt.Errorf("make apt's folders: %w", err)
		}
	}
	// An empty status: nothing is installed, so every dependency is part of the plan.
	if err := os.WriteFile(filepath.Join(a.folder(), "state", "status"), nil, 0o644); err != nil {
		return fmt.Errorf("make apt's folders: %w", err)
	}
	if _, updateErr := a.run(ctx, []string{"-qq", "-o", "APT::Update::Error-Mode=any", "update"}); updateErr != nil {
		if err == nil {
			return nil
		}
		return updateErr
	}
	return os.WriteFile(stamp, nil, 0o644)
}

func (a Apt) run(ctx context.Context, arguments []string) (string, error) {
	folder, err := filepath.Abs(a.folder())
	if err != nil {
		return "", fmt.Errorf("find apt's folder: %w", err)
	}
	options := []string{
		"APT::Architecture=" + a.Architecture, "APT::Architectures=" + a.Architecture, "Dir::State=" + filepath.Join(folder, "state"),
		"Dir::State::status=" + filepath.Join(folder, "state", "status"), "Dir::Cache=" + filepath.Join(folder, "cache"),
		"Acquire::Languages=none", "APT::Sandbox::User=root",
	}
	var all []string
	for _, option := range options {
		all = append(all, "-o", option)
	}
	cmd := exec.CommandContext(ctx, "apt-get", append(all, arguments...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%w for %s: apt-get %s: %w: %s", ErrNoPackages, a.Architecture, arguments[len(arguments)-1], err, lastLine(stderr.String()))
	}
	return stdout.String(), nil
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// Package images makes Assay's container images from files, as OCI layouts, and pushes them to a registry.
//
// No container runtime, no base image and no registry takes part: a layer is a sorted list of files with fixed owners and times, so the
// same files give the same bytes on every machine. Each image is an index over the processors in Architectures. It trusts the files that it
// is given; the Debian packages of assay-swtpm are verified by apt. What runs in which image, and with which rights, is the operator's.
package images

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Architectures are the processors that every image is made for, by Go's names.
func Architectures() []string { return []string{"amd64", "arm64"} }

// Unprivileged is the user and group of processes that need no other; /etc/passwd of each image calls it assay.
const Unprivileged = 65532

// An Image is one program, or one set of programs, with all that it needs to run.
type Image struct {
	Name        string
	Description string
	// Licenses is an SPDX expression of what the image holds.
	Licenses string
	// Root starts the image as uid 0, for programs that open what needs rights and then drop them.
	Root       bool
	Entrypoint string
	// Packages are Debian packages; empty for images of our own programs.
	Packages []string
	// Programs are taken from Packages, with the libraries that they are linked with.
	Programs []string
}

// Catalog lists the images that this repository publishes.
func Catalog() []Image {
	own := func(name, description string) Image {
		return Image{Name: name, Description: description, Licenses: "Apache-2.0", Entrypoint: "/usr/bin/" + name}
	}
	agent := own("assay-agent", "Attests the node that it runs on by its TPM")
	agent.Root = true
	return []Image{
		own("assay", "Assay's control plane (assay server) and command line"),
		agent,
		own("assay-operator", "Runs Assay in a Kubernetes cluster; also its device plugin for TPMs and the clean-up before it is uninstalled"),
		{
			Name: "assay-swtpm", Description: "A TPM emulator from Debian, to try Assay where there is no TPM: it proves nothing about a machine",
			Licenses: "BSD-3-Clause AND LGPL-2.1-or-later AND GPL-3.0-or-later", Entrypoint: "/usr/bin/swtpm",
			Packages: []string{"swtpm", "swtpm-tools"}, Programs: []string{"usr/bin/swtpm", "usr/bin/swtpm_setup", "usr/bin/swtpm_localca", "usr/bin/swtpm_cert", "usr/bin/certtool"},
		},
	}
}

// Find returns the image of that name.
func Find(name string) (Image, error) {
	var known []string
	for _, image := range Catalog() {
		if image.Name == name {
			return image, nil
		}
		known = append(known, image.Name)
	}
	return Image{}, fmt.Errorf("image %q: there are %v", name, known)
}

// ErrNoProgram says that an image's program was not built.
var ErrNoProgram = errors.New("the program is not built: run make build")

// OwnFiles are the files of an image of our own program, which lies in folder programs as ARCHITECTURE/NAME.
func (i Image) OwnFiles(programs, architecture string) ([]File, error) {
	path := filepath.Join(programs, architecture, i.Name)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("image %s: %s: %w", i.Name, path, ErrNoProgram)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", i.Name, err)
	}
	if err := checkELF(data, architecture); err != nil {
		return nil, fmt.Errorf("image %s: %s: %w", i.Name, path, err)
	}
	return []File{{Path: i.Entrypoint[1:], Mode: 0o755, Data: data}}, nil
}

// baseFiles are in every image: users, and mount points so that a pod with a read-only root can mount over them.
func baseFiles() []File {
	id := Unprivileged
	return []File{
		{Path: "etc/passwd", Mode: 0o644, Data: fmt.Appendf(nil, "root:x:0:0:root:/:/sbin/nologin\nassay:x:%d:%d:assay:/nonexistent:/sbin/nologin\n", id, id)},
		{Path: "etc/group", Mode: 0o644, Data: fmt.Appendf(nil, "root:x:0:\nassay:x:%d:\n", id)},
		{Path: "tmp", Mode: os.ModeDir | os.ModeSticky | 0o777},
		{Path: "run", Mode: os.ModeDir | 0o755},
		{Path: "var/lib/assay", Mode: os.ModeDir | 0o700, Owner: id},
	}
}

func (i Image) user() string {
	if i.Root {
		return "0:0"
	}
	return fmt.Sprintf("%d:%d", Unprivileged, Unprivileged)
}

func knownArchitecture(name string) error {
	if !slices.Contains(Architectures(), name) {
		return fmt.Errorf("architecture %q: there are %v", name, Architectures())
	}
	return nil
}

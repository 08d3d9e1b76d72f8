package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// maxAgentBytes is the promise about the program that runs on every node.
const maxAgentBytes = 35 << 20

// buildAgent builds the agent for all architectures as make build does. The stamp of the commit is left out: it may change between two builds.
func buildAgent(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for _, architecture := range Architectures() {
		out := filepath.Join(folder, architecture, "assay-agent")
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, "github.com/assay-project/assay/cmd/assay-agent")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture)
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build the agent for %s: %v\n%s", architecture, err, text)
		}
	}
	return folder
}

func writeAgent(t *testing.T, programs string) string {
	t.Helper()
	agent, err := Find("assay-agent")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]File{}
	for _, architecture := range Architectures() {
		if files[architecture], err = agent.OwnFiles(programs, architecture); err != nil {
			t.Fatal(err)
		}
		if size := len(files[architecture][0].Data); size > maxAgentBytes {
			t.Errorf("assay-agent for %s has %d bytes, more than %d", architecture, size, maxAgentBytes)
		}
	}
	index, err := agent.Index("v1", files)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "agent.tar")
	if err := agent.WriteLayout(file, "v1", index); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestReproducible builds program and image twice, in different folders.
func TestReproducible(t *testing.T) {
	first, second := writeAgent(t, buildAgent(t)), writeAgent(t, buildAgent(t))
	a, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Errorf("two builds differ: %d and %d bytes", len(a), len(b))
	}
}

// small is an index whose program is a few bytes.
func small(t *testing.T, image Image) v1.ImageIndex {
	t.Helper()
	files := map[string][]File{}
	for _, architecture := range Architectures() {
		files[architecture] = []File{{Path: "usr/bin/" + image.Name, Mode: 0o755, Data: []byte("for " + architecture)}}
	}
	index, err := image.Index("v1.2.3", files)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// platforms are the images of an index by architecture.
func platforms(t *testing.T, index v1.ImageIndex) map[string]v1.Image {
	t.Helper()
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	images := map[string]v1.Image{}
	for _, descriptor := range manifest.Manifests {
		if images[descriptor.Platform.Architecture], err = index.Image(descriptor.Digest); err != nil {
			t.Fatal(err)
		}
	}
	return images
}

func TestConfiguration(t *testing.T) {
	users := map[string]string{"assay": "65532:65532", "assay-agent": "0:0", "assay-operator": "65532:65532", "assay-swtpm": "65532:65532"}
	for _, image := range Catalog() {
		images := platforms(t, small(t, image))
		if len(images) != 2 {
			t.Errorf("%s has the architectures %v", image.Name, images)
		}
		for architecture, one := range images {
			config, err := one.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			if config.Architecture != architecture || config.OS != "linux" {
				t.Errorf("%s for %s says %s/%s", image.Name, architecture, config.OS, config.Architecture)
			}
			got := []string{config.Config.User, strings.Join(config.Config.Entrypoint, " "), config.Config.Labels["org.opencontainers.image.version"], config.Config.Labels["org.opencontainers.image.title"]}
			if diff := cmp.Diff([]string{users[image.Name], image.Entrypoint, "v1.2.3", image.Name}, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", image.Name, diff)
			}
		}
	}
}

// contents reads what one image unpacks to.
func contents(t *testing.T, image v1.Image) map[string]*tar.Header {
	t.Helper()
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatal(len(layers), err)
	}
	plain, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	files := map[string]*tar.Header{}
	for r := tar.NewReader(plain); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = h
	}
}

func TestContents(t *testing.T) {
	server, err := Find("assay")
	if err != nil {
		t.Fatal(err)
	}
	files := contents(t, platforms(t, small(t, server))["arm64"])
	for name, mode := range map[string]int64{"usr/": 0o755, "usr/bin/": 0o755, "usr/bin/assay": 0o755, "etc/passwd": 0o644, "tmp/": 0o1777, "var/lib/assay/": 0o700} {
		if files[name] == nil || files[name].Mode != mode {
			t.Errorf("%s: %+v, not mode %o", name, files[name], mode)
		}
	}
	if home := files["var/lib/assay/"]; home.Uid != Unprivileged || home.Gid != Unprivileged {
		t.Errorf("the server's state belongs to %d:%d", home.Uid, home.Gid)
	}
}

func TestRefusedFiles(t *testing.T) {
	program := File{Path: "a/program", Mode: 0o755}
	tests := []struct {
		name  string
		files []File
		want  string
	}{
		{"absolute", []File{{Path: "/etc/x"}}, `file "/etc/x": not a clean path`},
		{"above the root", []File{{Path: "../x"}}, `file "../x": not a clean path`},
		{"the root", []File{{Path: "."}}, `file ".": not a clean path`},
		{"twice", []File{program, program}, `file "a/program" is there twice`},
		{"under a file", []File{program, {Path: "a/program/x"}}, `file "a/program/x" lies under "a/program"`},
		{"under a link", []File{{Path: "lib", Mode: os.ModeSymlink, Link: "usr/lib"}, {Path: "lib/x"}}, `file "lib/x" lies under "lib"`},
	}
	for _, test := range tests {
		if _, err := layer(test.files); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", test.name, err, test.want)
		}
	}
	if _, err := layer([]File{program}); err != nil {
		t.Errorf("without a fault: %v", err)
	}
}

func TestRefusedPrograms(t *testing.T) {
	folder := t.TempDir()
	write := func(architecture string, data []byte) {
		if err := os.MkdirAll(filepath.Join(folder, architecture), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, architecture, "assay"), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	elfHeader := func(machine byte) []byte {
		h := make([]byte, 64)
		copy(h, "\x7fELF\x02\x01\x01")
		h[16], h[18], h[20], h[52], h[54], h[58] = 2, machine, 1, 64, 56, 64
		return h
	}
	const x86, arm = 62, 183
	write("amd64", elfHeader(arm))
	write("arm64", []byte("#!/bin/sh\n"))
	image, err := Find("assay")
	if err != nil {
		t.Fatal(err)
	}
	for architecture, want := range map[string]string{"amd64": "a program for EM_AARCH64, not for amd64", "arm64": "not a program", "riscv64": "the program is not built: run make build"} {
		if _, err := image.OwnFiles(folder, architecture); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", architecture, err, want)
		}
	}
	write("amd64", elfHeader(x86))
	if _, err := image.OwnFiles(folder, "amd64"); err != nil {
		t.Errorf("without a fault: %v", err)
	}
	if _, err := Find("assay-fim"); err == nil || !strings.Contains(err.Error(), "assay-operator") {
		t.Errorf("unknown image: %v", err)
	}
}

package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const source = "https://github.com/assay-project/assay"

// LocalRegistry stands in the names of images inside layout files: who imports one into a node's containerd finds it as
// localhost/NAME:VERSION, which no pull can take for an image of somebody else.
const LocalRegistry = "localhost"

// ErrNoLayout says that a file is no layout that this package wrote.
var ErrNoLayout = errors.New("not an OCI layout with one index")

// maxLayoutBytes bounds what is unpacked from a layout file.
const maxLayoutBytes = 1 << 30

// Index makes the image of each architecture from its files, and an index over them. version is the label that tells people what they run.
func (i Image) Index(version string, files map[string][]File) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, architecture := range Architectures() {
		own, ok := files[architecture]
		if !ok {
			return nil, fmt.Errorf("image %s: no files for %s", i.Name, architecture)
		}
		image, err := i.image(version, architecture, own)
		if err != nil {
			return nil, fmt.Errorf("image %s for %s: %w", i.Name, architecture, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}}})
	}
	return mutate.Annotations(index, i.labels(version)).(v1.ImageIndex), nil
}

func (i Image) image(version, architecture string, files []File) (v1.Image, error) {
	packed, err := layer(append(baseFiles(), files...))
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.Append(image, mutate.Addendum{Layer: packed, History: v1.History{Created: v1.Time{Time: time.Unix(0, 0)}, CreatedBy: "deploy/images"}})
	if err != nil {
		return nil, fmt.Errorf("append layer: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", architecture, v1.Time{Time: time.Unix(0, 0).UTC()}
	config.Config = v1.Config{
		User: i.user(), Entrypoint: []string{i.Entrypoint}, WorkingDir: "/", Labels: i.labels(version),
		Env: []string{"PATH=/usr/bin"},
	}
	return mutate.ConfigFile(image, config)
}

// labels are the annotations of the OCI image specification.
func (i Image) labels(version string) map[string]string {
	const prefix = "org.opencontainers.image."
	return map[string]string{
		prefix + "title": i.Name, prefix + "description": i.Description, prefix + "licenses": i.Licenses,
		prefix + "source": source, prefix + "vendor": "Assay", prefix + "version": version,
	}
}

// WriteLayout writes the index as an OCI layout in one tar file. The file appears whole or not at all.
func (i Image) WriteLayout(file, version string, index v1.ImageIndex) error {
	folder, err := os.MkdirTemp(filepath.Dir(file), ".layout-*")
	if err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	defer os.RemoveAll(folder)
	tree := filepath.Join(folder, "tree")
	written, err := layout.Write(tree, empty.Index)
	if err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	reference := LocalRegistry + "/" + i.Name + ":" + version
	names := layout.WithAnnotations(map[string]string{"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": version})
	if err := written.AppendIndex(index, names); err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	packed := filepath.Join(folder, "layout.tar")
	if err := packFolder(tree, packed); err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	return os.Rename(packed, file)
}

// packFolder writes the folder's files in the order of their names, with fixed owners and times.
func packFolder(folder, file string) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	err = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(header(File{Path: filepath.ToSlash(name), Mode: 0o644, Data: data})); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	return errors.Join(err, w.Close(), out.Close())
}

// ReadLayout unpacks a layout file into folder and returns the index in it.
func ReadLayout(file, folder string) (v1.ImageIndex, error) {
	in, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read layout: %w", err)
	}
	defer in.Close()
	if err := unpackFolder(io.LimitReader(in, maxLayoutBytes), folder); err != nil {
		return nil, fmt.Errorf("read layout %s: %w", file, err)
	}
	outer, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		return nil, fmt.Errorf("read layout %s: %w: %w", file, ErrNoLayout, err)
	}
	manifest, err := outer.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 || !manifest.Manifests[0].MediaType.IsIndex() {
		return nil, fmt.Errorf("read layout %s: %w", file, errors.Join(ErrNoLayout, err))
	}
	return outer.ImageIndex(manifest.Manifests[0].Digest)
}

func unpackFolder(in io.Reader, folder string) error {
	r := tar.NewReader(in)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg || !fs.ValidPath(h.Name) || strings.HasPrefix(h.Name, ".") {
			return fmt.Errorf("entry %q: %w", h.Name, ErrNoLayout)
		}
		var data bytes.Buffer
		if _, err := data.ReadFrom(r); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
		path := filepath.Join(folder, filepath.FromSlash(h.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data.Bytes(), 0o644); err != nil {
			return err
		}
	}
}

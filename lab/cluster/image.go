package cluster

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// An Image is a container image of a few files, such as one static program. The same content gives the same digest.
type Image struct {
	// Name has a registry and a tag other than latest, so that no kubelet looks for it elsewhere: assay.test/tool:1.
	Name string
	// Files are the host's files, by their absolute paths in the image. All of them may be executed.
	Files      map[string]string
	Entrypoint []string
}

// WriteImage writes images to a file as one OCI layout in a tar archive, which ImportImage takes and which leaves digests as they are.
func WriteImage(path string, images ...Image) error {
	work, err := os.MkdirTemp(filepath.Dir(path), ".image-*")
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	defer os.RemoveAll(work)
	index, err := layout.Write(work, empty.Index)
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	for _, image := range images {
		built, err := image.build()
		if err != nil {
			return fmt.Errorf("make image %s: %w", image.Name, err)
		}
		// The first is what containerd goes by, the second what the layout's specification has.
		names := map[string]string{"io.containerd.image.name": image.Name, "org.opencontainers.image.ref.name": image.Name}
		if err := index.AppendImage(built, layout.WithAnnotations(names)); err != nil {
			return fmt.Errorf("make image %s: %w", image.Name, err)
		}
	}
	if err := archiveFolder(work, path); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}

func (i Image) build() (v1.Image, error) {
	content, err := i.layer()
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.AppendLayers(base, static.NewLayer(content, types.OCIUncompressedLayer))
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint = i.Entrypoint
	return mutate.ConfigFile(image, config)
}

// layer is the tar archive of the files, without anything that differs from one machine to another.
func (i Image) layer() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, path := range slices.Sorted(maps.Keys(i.Files)) {
		data, err := os.ReadFile(i.Files[path])
		if err != nil {
			return nil, err
		}
		if err := addFile(w, strings.TrimPrefix(path, "/"), 0o755, data); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), w.Close()
}

func addFile(w *tar.Writer, name string, mode int64, data []byte) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// archiveFolder writes the files below dir to a tar archive.
func archiveFolder(dir, path string) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	err = fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return copyFile(w, name, filepath.Join(dir, name))
	})
	return errors.Join(err, w.Close(), out.Close())
}

func copyFile(w *tar.Writer, name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: info.Size(), Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// ownImages makes the images that every cluster needs, and returns their archives: for all nodes, and for the first one alone.
func (c *Cluster) ownImages() (all, first string, err error) {
	all, first = filepath.Join(c.dir, imagesDir, "pause.tar"), filepath.Join(c.dir, imagesDir, "coredns.tar")
	pause := Image{Name: pauseImage, Files: map[string]string{"/pause": c.spec.Programs.path("pause", "pause")}, Entrypoint: []string{"/pause"}}
	dns := Image{Name: dnsImage, Files: map[string]string{"/coredns": c.spec.Programs.path("coredns", "coredns")}, Entrypoint: []string{"/coredns"}}
	return all, first, errors.Join(WriteImage(all, pause), WriteImage(first, dns))
}

package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A File is an entry of a layer: a regular file, a folder (Mode has os.ModeDir) or a symbolic link (Mode has os.ModeSymlink).
type File struct {
	Path  string // slash-separated, relative to the root, clean
	Mode  fs.FileMode
	Owner int // user and group
	Data  []byte
	Link  string // target of a symbolic link
}

// errPath refuses what would land outside of the image's root.
var errPath = errors.New("not a clean path relative to the image's root")

// layer packs files, adding the folders above them. Order, owners and times depend on nothing but the files.
func layer(files []File) (v1.Layer, error) {
	all, err := withFolders(files)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	for _, f := range all {
		if err := w.WriteHeader(header(f)); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.Path, err)
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.Path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack layer: %w", err)
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
}

func header(f File) *tar.Header {
	h := &tar.Header{Name: f.Path, Mode: int64(f.Mode.Perm()), Uid: f.Owner, Gid: f.Owner, Size: int64(len(f.Data)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	if f.Mode&os.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	switch {
	case f.Mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, f.Path+"/"
	case f.Mode&os.ModeSymlink != 0:
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
	default:
		h.Typeflag = tar.TypeReg
	}
	return h
}

// withFolders sorts the files and puts each folder before what it holds. The same path twice is refused: which one wins would depend on the
// runtime that unpacks.
func withFolders(files []File) ([]File, error) {
	have := map[string]File{}
	for _, f := range files {
		if !fs.ValidPath(f.Path) || f.Path == "." {
			return nil, fmt.Errorf("file %q: %w", f.Path, errPath)
		}
		if _, twice := have[f.Path]; twice {
			return nil, fmt.Errorf("file %q is there twice", f.Path)
		}
		have[f.Path] = f
	}
	for _, f := range files {
		for dir := path.Dir(f.Path); dir != "."; dir = path.Dir(dir) {
			if above, ok := have[dir]; ok && !above.Mode.IsDir() {
				return nil, fmt.Errorf("file %q lies under %q, which is no folder", f.Path, dir)
			}
			if _, ok := have[dir]; !ok {
				have[dir] = File{Path: dir, Mode: os.ModeDir | 0o755}
			}
		}
	}
	all := make([]File, 0, len(have))
	for _, f := range have {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b File) int { return strings.Compare(a.Path, b.Path) }) // a folder's path is a prefix of what it holds
	return all, nil
}

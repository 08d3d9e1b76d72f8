package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/ulikunitz/xz"
)

// Limits of a package: what is unpacked from one archive, and how much memory its compression may ask for.
const (
	maxPackageBytes    = 256 << 20
	maxDictionaryBytes = 64 << 20
)

// errPackage says that bytes are no Debian package, or none that is read here.
var errPackage = errors.New("not a Debian package")

// A debian is an unpacked Debian package (deb(5)).
type debian struct {
	control []byte // its control file
	files   []File // with merged paths
}

// parseDebian reads a package: an ar archive of debian-binary, control.tar.* and data.tar.*.
func parseDebian(data []byte) (debian, error) {
	const magic = "!<arch>\n"
	if !bytes.HasPrefix(data, []byte(magic)) {
		return debian{}, fmt.Errorf("%w: no ar archive", errPackage)
	}
	var p debian
	for rest := data[len(magic):]; len(rest) > 0; {
		name, member, after, err := arMember(rest)
		if err != nil {
			return debian{}, err
		}
		rest = after
		switch {
		case strings.HasPrefix(name, "control.tar"):
			err = p.readControl(name, member)
		case strings.HasPrefix(name, "data.tar"):
			err = p.readData(name, member)
		}
		if err != nil {
			return debian{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	if p.control == nil || p.files == nil {
		return debian{}, fmt.Errorf("%w: control.tar or data.tar is missing", errPackage)
	}
	return p, nil
}

// arMember splits one member off: a header of 60 bytes, the bytes, and one byte of padding after an odd number of them.
func arMember(data []byte) (name string, member, rest []byte, err error) {
	const headerBytes, sizeAt, sizeEnd = 60, 48, 58
	if len(data) < headerBytes {
		return "", nil, nil, fmt.Errorf("%w: cut off in a member's header", errPackage)
	}
	name = strings.TrimRight(string(data[:16]), " /")
	size, err := strconv.ParseUint(strings.TrimRight(string(data[sizeAt:sizeEnd]), " "), 10, 63)
	body := data[headerBytes:]
	if err != nil || size > uint64(len(body)) {
		return "", nil, nil, fmt.Errorf("%w: member %q says that it has %q bytes, %d are left", errPackage, name, data[sizeAt:sizeEnd], len(body))
	}
	member, rest = body[:size], body[size:]
	if size%2 == 1 && len(rest) > 0 {
		rest = rest[1:]
	}
	return name, member, rest, nil
}

func decompress(name string, data []byte) (io.Reader, error) {
	in := bytes.NewReader(data)
	var out io.Reader
	var err error
	switch path.Ext(name) {
	case ".xz":
		out, err = xz.ReaderConfig{DictCap: maxDictionaryBytes}.NewReader(in)
	case ".gz":
		out, err = gzip.NewReader(in)
	case ".tar":
		out = in
	default:
		return nil, fmt.Errorf("%w that is read here: compressed as %q, not xz or gz", errPackage, path.Ext(name))
	}
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return io.LimitReader(out, maxPackageBytes), nil
}

func (p *debian) readControl(name string, data []byte) error {
	return eachEntry(name, data, func(h *tar.Header, body io.Reader) error {
		if path.Clean(h.Name) != "control" {
			return nil
		}
		var err error
		p.control, err = io.ReadAll(io.LimitReader(body, 1<<20))
		return err
	})
}

// readData keeps regular files and symbolic links; hard links become copies. Folders come from the paths, devices do not come.
func (p *debian) readData(name string, data []byte) error {
	have := map[string]int{}
	p.files = []File{}
	return eachEntry(name, data, func(h *tar.Header, body io.Reader) error {
		f := File{Path: merged(path.Clean(strings.TrimPrefix(h.Name, "./"))), Mode: os.FileMode(h.Mode).Perm()}
		switch h.Typeflag {
		case tar.TypeReg:
			var err error
			if f.Data, err = io.ReadAll(body); err != nil {
				return fmt.Errorf("file %q: %w", h.Name, err)
			}
		case tar.TypeSymlink:
			f.Mode, f.Link = os.ModeSymlink|0o777, h.Linkname
		case tar.TypeLink:
			of, ok := have[merged(path.Clean(strings.TrimPrefix(h.Linkname, "./")))]
			if !ok {
				return fmt.Errorf("%w: file %q is a link to %q, which did not come before it", errPackage, h.Name, h.Linkname)
			}
			f.Data = p.files[of].Data
		default:
			return nil
		}
		have[f.Path] = len(p.files)
		p.files = append(p.files, f)
		return nil
	})
}

func eachEntry(name string, data []byte, visit func(*tar.Header, io.Reader) error) error {
	plain, err := decompress(name, data)
	if err != nil {
		return err
	}
	r := tar.NewReader(plain)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errPackage, err)
		}
		if err := visit(h, r); err != nil {
			return err
		}
	}
}

// name is the package's name, from its control file.
func (p debian) name() string {
	for line := range strings.Lines(string(p.control)) {
		if name, ok := strings.CutPrefix(line, "Package:"); ok {
			return strings.TrimSpace(name)
		}
	}
	return ""
}

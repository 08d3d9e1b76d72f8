package lab

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"
)

// makeModule is the least ELF file that has a .modinfo section.
func makeModule(info string) []byte {
	const head, section = 64, 64
	names := "\x00.modinfo\x00.shstrtab\x00"
	le := binary.LittleEndian
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	b = le.AppendUint16(b, 1)    // relocatable
	b = le.AppendUint16(b, 0x3e) // x86-64
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, 0)
	b = le.AppendUint64(b, 0)
	b = le.AppendUint64(b, uint64(head+len(info)+len(names))) // section headers
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{head, 0, 0, section, 3, 2} {
		b = le.AppendUint16(b, v)
	}
	b = append(b, info+names...)
	b = append(b, make([]byte, section)...)
	add := func(name, kind uint32, offset, size int) {
		b = le.AppendUint32(le.AppendUint32(b, name), kind)
		b = append(b, make([]byte, 16)...)
		b = le.AppendUint64(le.AppendUint64(b, uint64(offset)), uint64(size))
		b = append(b, make([]byte, 24)...)
	}
	add(1, 1, head, len(info))
	add(10, 3, head+len(info), len(names))
	return b
}

func compressXZ(t *testing.T, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := xz.NewWriter(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// moduleTree is a kernel with a driver that needs two others, one of which is built in and one compressed.
func moduleTree(t *testing.T) *moduleSet {
	t.Helper()
	dir := t.TempDir()
	files := map[string][]byte{
		"modules.builtin":                  []byte("kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c-generic.ko\n"),
		"kernel/drivers/virtio-blk.ko":     makeModule("license=GPL\x00depends=virtio,crc32c_generic\x00"),
		"kernel/drivers/virtio.ko.xz":      compressXZ(t, makeModule("depends=virtio_ring\x00")),
		"kernel/drivers/virtio_ring.ko":    makeModule("depends=\x00"),
		"kernel/drivers/orphan.ko":         makeModule("depends=nowhere\x00"),
		"kernel/drivers/garbage.ko":        []byte("no module"),
		"kernel/drivers/strange.ko.lzma":   []byte("?"),
		"kernel/drivers/broken.ko.xz":      []byte("no xz"),
		"kernel/drivers/notes/readme.text": []byte("no module at all"),
	}
	for path, data := range files {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	set, err := openModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	set, loaded := moduleTree(t), map[string]bool{}
	modules, err := set.resolve([]string{"ext4", "virtio_blk", "virtio"}, loaded)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, m := range modules {
		paths = append(paths, m.path)
		if !bytes.HasPrefix(m.data, []byte("\x7fELF")) {
			t.Errorf("%s is not decompressed", m.path)
		}
	}
	want := []string{"kernel/drivers/virtio_ring.ko", "kernel/drivers/virtio.ko", "kernel/drivers/virtio-blk.ko"}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if more, err := set.resolve([]string{"virtio"}, loaded); err != nil || len(more) > 0 {
		t.Errorf("loaded twice: %d, %v", len(more), err)
	}
}

func TestModulesThatCannotBeHadAreNamed(t *testing.T) {
	set := moduleTree(t)
	for name, want := range map[string]string{"none": "none", "orphan": "nowhere", "garbage": "garbage.ko", "strange": ".lzma", "broken": "broken"} {
		if _, err := set.resolve([]string{name}, map[string]bool{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := openModules(t.TempDir()); err == nil {
		t.Error("a folder without modules was opened")
	}
}

func TestInitramfsHoldsInitAndModulesInOrder(t *testing.T) {
	dir := t.TempDir()
	program, archive := filepath.Join(dir, "init"), filepath.Join(dir, "archive")
	if err := os.WriteFile(program, []byte("the init"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeInitramfs(archive, program, []module{{name: "b", data: []byte("module b")}, {name: "a", data: []byte("module a")}}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for r := cpio.NewReader(zip); ; {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[head.Name] = fmt.Sprintf("%o %s", head.Mode, data)
	}
	want := map[string]string{
		"dev": "40755 ", "proc": "40755 ", "sys": "40755 ", "modules": "40755 ", "init": "100755 the init",
		"modules/a.ko": "100644 module a", "modules/b.ko": "100644 module b", "modules/order": "100644 /modules/b.ko\n/modules/a.ko\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if err := writeInitramfs(archive, filepath.Join(dir, "none"), nil); err == nil {
		t.Error("no init, no error")
	}
}

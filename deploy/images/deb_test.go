package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"
)

type entry struct {
	name, text, link string
	kind             byte
}

func packTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if err := w.WriteHeader(&tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: 0o644, Size: int64(len(e.text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func compressXZ(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err == nil {
		_, err = w.Write(data)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func compressGZ(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func member(name string, data []byte) []byte {
	out := fmt.Appendf(nil, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", len(data))
	out = append(out, data...)
	if len(data)%2 == 1 {
		out = append(out, '\n')
	}
	return out
}

func archive(members ...[]byte) []byte {
	return append([]byte("!<arch>\n"), bytes.Join(members, nil)...)
}

func control(t testing.TB) []byte {
	return member("control.tar.gz", compressGZ(t, packTar(t, entry{name: "./control", text: "Package: lamp\nVersion: 1\n"}, entry{name: "./postinst", text: "exit 1"})))
}

// TestParseDebian reads one package: old paths are merged, a hard link is a copy, a device does not come.
func TestParseDebian(t *testing.T) {
	data := packTar(t, entry{name: "./lib/", kind: tar.TypeDir}, entry{name: "./lib/a.so.1", text: "lib"}, entry{name: "./lib/a.so", link: "a.so.1", kind: tar.TypeSymlink},
		entry{name: "./usr/bin/b", link: "./lib/a.so.1", kind: tar.TypeLink}, entry{name: "./dev/x", kind: tar.TypeChar})
	for name, body := range map[string][]byte{"data.tar.xz": compressXZ(t, data), "data.tar.gz": compressGZ(t, data), "data.tar": data} {
		p, err := parseDebian(archive(member("debian-binary", []byte("2.0\n")), control(t), member(name, body)))
		if err != nil {
			t.Fatal(name, err)
		}
		var got []string
		for _, f := range p.files {
			got = append(got, fmt.Sprintf("%s %s %s%s", f.Mode, f.Path, f.Data, f.Link))
		}
		want := []string{"-rw-r--r-- usr/lib/a.so.1 lib", "Lrwxrwxrwx usr/lib/a.so a.so.1", "-rw-r--r-- usr/bin/b lib"}
		if diff := cmp.Diff(want, got); diff != "" || p.name() != "lamp" {
			t.Errorf("%s: package %q (-want +got):\n%s", name, p.name(), diff)
		}
	}
}

func TestRefusedPackages(t *testing.T) {
	data := member("data.tar", packTar(t, entry{name: "./a", text: "a"}))
	tests := []struct {
		name string
		data []byte
		want string
	}{
		{"no archive", []byte("PK"), "no ar archive"},
		{"nothing in it", archive(), "control.tar or data.tar is missing"},
		{"no data", archive(control(t)), "control.tar or data.tar is missing"},
		{"cut off", archive(control(t), data[:30]), "cut off in a member's header"},
		{"too long a member", archive(control(t), data[:len(data)-1]), `member "data.tar" says that it has`},
		{"negative size", archive(bytes.Replace(data, []byte("2048"), []byte("-1  "), 1)), `says that it has "-1`},
		{"unknown compression", archive(control(t), member("data.tar.zst", nil)), `compressed as ".zst"`},
		{"broken compression", archive(control(t), member("data.tar.xz", []byte("x"))), "data.tar.xz: decompress"},
		{"no tar", archive(control(t), member("data.tar", bytes.Repeat([]byte("x"), 600))), "data.tar: not a Debian package"},
		{"link to what is not there", archive(control(t), member("data.tar", packTar(t, entry{name: "b", link: "a", kind: tar.TypeLink}))), `file "b" is a link to "a"`},
	}
	for _, test := range tests {
		if _, err := parseDebian(test.data); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", test.name, err, test.want)
		}
	}
	if _, err := parseDebian(archive(control(t), data)); err != nil {
		t.Errorf("without a fault: %v", err)
	}
}

func FuzzParseDebian(f *testing.F) {
	data := packTar(f, entry{name: "./lib/a", text: "a"}, entry{name: "../../b", link: "/c", kind: tar.TypeSymlink})
	f.Add(archive(control(f), member("data.tar", data)))
	f.Add(archive(control(f), member("data.tar.xz", compressXZ(f, data))))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parseDebian(data)
		if err == nil && (p.control == nil || p.files == nil) {
			t.Error("accepted without its parts")
		}
	})
}

func TestPlanned(t *testing.T) {
	plan := "NOTE: This is only a simulation!\nInst libgcc-s1 (12.2.0-14 Debian:12.11/stable [amd64]) []\nInst zlib1g:amd64 (1:1.2.13 Debian:12.11/stable, Debian-Security:12/stable [amd64])\nConf zlib1g (1:1.2.13 Debian:12.11/stable [amd64])\nInst adduser (3.134 Debian:12.11/stable [all])\n"
	got, err := planned(plan)
	if diff := cmp.Diff([]string{"adduser_3.134_all.deb", "libgcc-s1_12.2.0-14_amd64.deb", "zlib1g_1%3a1.2.13_amd64.deb"}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, plan := range []string{"", "Inst swtpm\n", "Inst swtpm (1.0\n"} {
		if names, err := planned(plan); !errors.Is(err, ErrNoPackages) {
			t.Errorf("plan %q: %v, %v", plan, names, err)
		}
	}
}

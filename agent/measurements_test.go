package agent

import (
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// listLine is an ima-ng entry for a file as the kernel would show it, with a true template hash.
func listLine(path, content string) string {
	digest := sha1.Sum([]byte(content))
	field := func(data string) string {
		n := len(data)
		return string([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}) + data
	}
	template := sha1.Sum([]byte(field("sha1:\x00"+string(digest[:])) + field(path+"\x00")))
	return fmt.Sprintf("10 %s ima-ng sha1:%s %s\n", hex.EncodeToString(template[:]), hex.EncodeToString(digest[:]), path)
}

// writeList makes a file that stands for the kernel's list, and opens it as the agent does.
func writeList(t *testing.T, text string) (*measurementList, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ascii_runtime_measurements")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := openList(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := list.close(); err != nil {
			t.Error(err)
		}
	})
	return list, path
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// want reads from an entry and compares.
func want(t *testing.T, list *measurementList, entry uint64, text string, first uint64) {
	t.Helper()
	got, n, err := list.from(entry)
	if err != nil {
		t.Fatalf("from %d: %v", entry, err)
	}
	if n != first {
		t.Errorf("from %d: first entry is %d, want %d", entry, n, first)
	}
	if diff := cmp.Diff(text, string(got)); diff != "" {
		t.Errorf("from %d: %s", entry, diff)
	}
}

// The reference's rule: k < n gives k..n-1, k == n nothing, k > n everything from 0.
func TestListFrom(t *testing.T) {
	a, b, c := listLine("boot_aggregate", "x"), listLine("/bin/sh", "sh"), listLine("/bin/true", "true")
	for _, order := range [][]uint64{{0, 1, 2, 3, 4, 99}, {99, 4, 3, 2, 1, 0}, {3, 0, 2}, {2, 2, 1, 1}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			list, _ := writeList(t, a+b+c)
			for _, entry := range order {
				switch entry {
				case 0:
					want(t, list, 0, a+b+c, 0)
				case 1:
					want(t, list, 1, b+c, 1)
				case 2:
					want(t, list, 2, c, 2)
				case 3:
					want(t, list, 3, "", 3)
				default:
					want(t, list, entry, a+b+c, 0)
				}
			}
		})
	}
}

func TestListGrows(t *testing.T) {
	a, b, c := listLine("boot_aggregate", "x"), listLine("/bin/sh", "sh"), listLine("/bin/true", "true")
	list, path := writeList(t, a)
	want(t, list, 0, a, 0)
	appendTo(t, path, b)
	want(t, list, 1, b, 1)
	want(t, list, 2, "", 2)
	appendTo(t, path, c)
	want(t, list, 1, b+c, 1)
	want(t, list, 0, a+b+c, 0)
	if n := list.entries(); n != 3 {
		t.Errorf("%d entries are known, want 3", n)
	}
}

// A line that is being written is not sent, and is sent once it is whole.
func TestListHalfLine(t *testing.T) {
	a, b := listLine("boot_aggregate", "x"), listLine("/bin/sh", "sh")
	list, path := writeList(t, a+b[:30])
	want(t, list, 0, a, 0)
	want(t, list, 1, "", 1)
	appendTo(t, path, b[30:])
	want(t, list, 1, b, 1)
}

// A name with a newline is one entry, also when its second line looks like another entry: verifier and agent must count alike.
func TestListNewlineInName(t *testing.T) {
	forged := strings.TrimSuffix(listLine("/bin/forged", "forged"), "\n")
	a, b, c := listLine("boot_aggregate", "x"), listLine("/tmp/x\n"+forged, "evil"), listLine("/bin/true", "true")
	list, _ := writeList(t, a+b+c)
	want(t, list, 2, c, 2)
	want(t, list, 1, b+c, 1)
	want(t, list, 3, "", 3)
}

// What is no list is handed out by lines; the verifier says what is wrong.
func TestListUnreadable(t *testing.T) {
	list, _ := writeList(t, "first\nsecond\nthird\n")
	want(t, list, 1, "second\nthird\n", 1)
	want(t, list, 3, "", 3)
}

func TestListShrinks(t *testing.T) {
	a, b := listLine("boot_aggregate", "x"), listLine("/bin/sh", "sh")
	list, path := writeList(t, a+b)
	want(t, list, 2, "", 2)
	if err := os.Truncate(path, int64(len(a))); err != nil {
		t.Fatal(err)
	}
	want(t, list, 2, a, 0)
}

func TestOpenList(t *testing.T) {
	for _, path := range []string{"", filepath.Join(t.TempDir(), "none")} {
		if list, err := openList(path); list != nil || err != nil {
			t.Errorf("openList(%q) = %v, %v; want nothing", path, list, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openList(filepath.Join(file, "below"))
	if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "key imaList") {
		t.Errorf("error %v, want one that names the key", err)
	}
}

func TestReadBootLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "binary_bios_measurements")
	if log, err := readBootLog(path); log != nil || err != nil {
		t.Errorf("a missing log gives %v, %v; want nothing", log, err)
	}
	if err := os.WriteFile(path, []byte("log"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := readBootLog(path)
	if err != nil || string(log) != "log" {
		t.Errorf("log %q, error %v", log, err)
	}
	if err := os.Truncate(path, maxBootLogBytes+1); err != nil {
		t.Fatal(err)
	}
	if _, err := readBootLog(path); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("error %v for a log over the limit", err)
	}
}

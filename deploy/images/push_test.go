package images

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestPush publishes to a registry on the loopback and pulls each architecture as a node would.
func TestPush(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	target := Target{Registry: strings.TrimPrefix(server.URL, "http://") + "/team/assay", Tag: "v1"}
	image, err := Find("assay")
	if err != nil {
		t.Fatal(err)
	}
	index := small(t, image)
	file := filepath.Join(t.TempDir(), "assay.tar")
	if err := image.WriteLayout(file, "v1", index); err != nil {
		t.Fatal(err)
	}
	got, err := Push(t.Context(), file, image, target)
	if err != nil {
		t.Fatal(err)
	}
	want, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got != target.Registry+"/assay@"+want.String() {
		t.Errorf("pushed as %s, the layout's digest is %s", got, want)
	}
	reference, err := name.ParseReference(target.Registry + "/assay:v1")
	if err != nil {
		t.Fatal(err)
	}
	for _, architecture := range Architectures() {
		pulled, err := remote.Image(reference, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: architecture}))
		if err != nil {
			t.Fatal(err)
		}
		if h := contents(t, pulled)["usr/bin/assay"]; h == nil || h.Size != int64(len("for "+architecture)) {
			t.Errorf("%s: pulled %+v", architecture, h)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Push(ended, file, image, target); !errors.Is(err, context.Canceled) {
		t.Errorf("push after its end: %v", err)
	}
}

func TestTarget(t *testing.T) {
	tests := []struct {
		target Target
		want   string
	}{
		{Target{}, "REGISTRY is empty: give host[:port][/path], as in make publish REGISTRY=registry.example/assay TAG=v1\nTAG is empty: give the tag that the images get, as in make publish REGISTRY=registry.example/assay TAG=v1"},
		{Target{Registry: "r.example/assay"}, "TAG is empty: give the tag that the images get, as in make publish REGISTRY=registry.example/assay TAG=v1"},
		{Target{Registry: "https://r.example", Tag: "v1"}, `REGISTRY "https://r.example": give host[:port][/path] without a scheme`},
		{Target{Registry: "r.example", Tag: "a tag"}, `REGISTRY "r.example", TAG "a tag":`},
		{Target{Registry: "r.example:5000/assay", Tag: "v1"}, ""},
	}
	for _, test := range tests {
		err := test.target.Check()
		if got := errorText(err); test.want == "" && err != nil || !strings.HasPrefix(got, test.want) {
			t.Errorf("%+v (-want +got):\n%s", test.target, cmp.Diff(test.want, got))
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestRefusedLayouts(t *testing.T) {
	write := func(names ...string) string {
		file, err := os.Create(filepath.Join(t.TempDir(), "layout.tar"))
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(file)
		for _, name := range names {
			if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 2}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte("{}")); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(w.Close(), file.Close()); err != nil {
			t.Fatal(err)
		}
		return file.Name()
	}
	tests := []struct{ name, file, want string }{
		{"no index", write("oci-layout"), ""},
		{"no image", write("index.json", "oci-layout"), ""},
		{"out of the folder", write("../x"), `entry "../x"`},
		{"absolute", write("/x"), `entry "/x"`},
		{"hidden", write(".x"), `entry ".x"`},
	}
	for _, test := range tests {
		folder := filepath.Join(t.TempDir(), "into")
		if _, err := ReadLayout(test.file, folder); !errors.Is(err, ErrNoLayout) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
		if _, err := os.Stat(filepath.Join(folder, "..", "x")); err == nil {
			t.Errorf("%s: a file lies beside the folder", test.name)
		}
	}
	if _, err := ReadLayout("missing.tar", t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

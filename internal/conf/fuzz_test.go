package conf_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/conf"
)

// Whatever the file and a variable hold: no panic, and what was accepted is printed and read again as the same values.
func FuzzLoad(f *testing.F) {
	f.Add("name: a\nlisten: {port: 1}\n", "ASSAY_HOSTS=a,b")
	f.Add("a: &a [*a]\n", "ASSAY_LISTEN_PORT=x")
	f.Add("? {a: b}\n: c\n", "ASSAY_")
	f.Add("interval: 1e400\nhosts: [1, {}]\n", "ASSAY_PASSWORD")
	f.Add("name: !!binary /w==\n", "ASSAY_LISTEN_PLAIN=on")
	f.Fuzz(func(t *testing.T, text, setting string) {
		path := filepath.Join(t.TempDir(), "conf.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got := defaults()
		err := conf.Load(conf.Source{Path: path, Environ: []string{setting}}, &got)
		var mistakes *conf.Error
		if errors.As(err, &mistakes) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		got.Password = "" // is not printed
		printed, err := conf.Format(got)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, printed, 0o600); err != nil {
			t.Fatal(err)
		}
		again := server{}
		if err := conf.Load(conf.Source{Path: path}, &again); err != nil {
			t.Fatalf("%v\n%s", err, printed)
		}
		if len(got.Hosts) == 0 {
			got.Hosts, again.Hosts = nil, nil
		}
		if diff := cmp.Diff(got, again, cmp.AllowUnexported(attest.Digest{})); diff != "" {
			t.Errorf("%s\n%s", diff, printed)
		}
	})
}

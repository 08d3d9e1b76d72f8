package conf_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/conf"
)

type server struct {
	Name     string        `json:"name"`
	Hosts    []string      `json:"hosts"`
	Interval conf.Duration `json:"interval"`
	Password conf.Secret   `json:"password"`
	Pin      attest.Digest `json:"pin"`
	Listen   listen        `json:"listen"`
	Ignored  string        `json:"-"`
}

type listen struct {
	Port  int  `json:"port"`
	Plain bool `json:"plain"`
}

func (s *server) Check() error {
	if time.Duration(s.Interval) < time.Second {
		return errors.Join(fmt.Errorf("interval %s is below 1s", s.Interval), errors.New("and that is too often"))
	}
	return nil
}

func (l *listen) Check() error {
	if l.Port < 1 || l.Port > 65535 {
		return fmt.Errorf("listen.port %d is no port", l.Port)
	}
	return nil
}

func defaults() server {
	return server{Name: "default", Hosts: []string{"localhost", "ip6-localhost"}, Interval: conf.Duration(30 * time.Second), Listen: listen{Port: 8443}}
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	digest := attest.SHA256.Sum(nil)
	for _, row := range []struct {
		name    string
		yaml    string
		environ []string
		change  func(*server)
	}{
		{"defaults", "", nil, func(*server) {}},
		{"comment only", "# nothing\n", nil, func(*server) {}},
		{"file", "name: a\nhosts: [b]\ninterval: 2m\npin: " + digest.String() + "\nlisten:\n  plain: true\n", nil, func(s *server) {
			s.Name, s.Hosts, s.Interval, s.Pin, s.Listen.Plain = "a", []string{"b"}, conf.Duration(2*time.Minute), digest, true
		}},
		{"environment over file", "name: a\nlisten: {port: 1}\n",
			[]string{"ASSAY_NAME=0x1: on", "ASSAY_LISTEN_PORT=2", "ASSAY_LISTEN_PLAIN=true", "ASSAY_HOSTS=x, y", "ASSAY_INTERVAL=5s", "ASSAY_PASSWORD=p=w", "ASSAY_PIN=" + digest.String(), "PATH=/bin"},
			func(s *server) {
				s.Name, s.Listen, s.Hosts, s.Interval = "0x1: on", listen{Port: 2, Plain: true}, []string{"x", "y"}, conf.Duration(5*time.Second)
				s.Password, s.Pin = "p=w", digest
			}},
		{"empty list", "", []string{"ASSAY_HOSTS="}, func(s *server) { s.Hosts = []string{} }},
		{"service links and ignored names", "",
			[]string{"ASSAY_SERVER_SERVICE_HOST=10.0.0.1", "ASSAY_SERVER_PORT=tcp://10.0.0.1:8443", "ASSAY_SERVER_PORT_8443_TCP_ADDR=10.0.0.1", "ASSAY_TRACE=1"}, func(*server) {}},
	} {
		t.Run(row.name, func(t *testing.T) {
			want, got := defaults(), defaults()
			row.change(&want)
			source := conf.Source{Path: file(t, row.yaml), Environ: row.environ, Ignore: []string{"ASSAY_TRACE"}}
			if err := conf.Load(source, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(attest.Digest{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLoadReportsEveryMistakeAtOnce(t *testing.T) {
	for _, row := range []struct {
		name    string
		yaml    string
		environ []string
		want    []string
	}{
		{"keys and values", "nme: a\nName: b\ninterval: 30\nlisten: {prot: 1, port: x}\nhosts: no\n", []string{"ASSAY_LISTEN_PORT=-", "ASSAY_NMAE=x"}, []string{
			`unknown key "Name"; the keys here are name, hosts, interval, password, pin, listen`,
			"hosts: is true or false, want a list",
			"interval: is a number, want a text",
			"listen.port: is a text, want a whole number (int)",
			`unknown key "listen.prot"; the keys here are port, plain`,
			`unknown key "nme"; the keys here are name, hosts, interval, password, pin, listen`,
			"environment variable ASSAY_LISTEN_PORT: is a list, want a whole number (int)",
			"environment variable ASSAY_NMAE overrides no key",
		}},
		{"a hidden field is no key", "Ignored: x\n", nil, []string{`unknown key "Ignored"; the keys here are name, hosts, interval, password, pin, listen`}},
		{"a value in the place of keys", "listen: 5\n", nil, []string{"listen: is a number, want a group of keys"}},
		{"kinds", "hosts: {a: 1}\nlisten: {plain: 1, port: 1.5}\nname: [a]\n", nil, []string{
			"hosts: is a group of keys, want a list", "listen.plain: is a number, want true or false", "listen.port: is a number, want a whole number (int)", "name: is a list, want a text",
		}},
		{"duration without unit", "interval: '30'\n", nil, []string{`interval: "30" is no duration such as 30s or 2m`}},
		{"digest", "pin: md5:00\n", nil, []string{`pin: digest "md5:00": unknown hash algorithm "md5"`}},
		{"checks", "interval: 1ms\nlisten: {port: 0}\n", nil, []string{"listen.port 0 is no port", "interval 1ms is below 1s", "and that is too often"}},
		{"duplicate key", "name: a\nname: b\n", nil, []string{`yaml: unmarshal errors:` + "\n" + `  line 2: key "name" already set in map`}},
		{"no keys", "- a\n", nil, []string{"the file holds a []interface {}, not keys"}},
		{"no YAML", "a: b: c\n", nil, []string{"yaml: mapping values are not allowed in this context"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := defaults()
			path := file(t, row.yaml)
			err := conf.Load(conf.Source{Path: path, Environ: row.environ}, &got)
			var mistakes *conf.Error
			if !errors.As(err, &mistakes) {
				t.Fatalf("have %v", err)
			}
			if diff := cmp.Diff(row.want, mistakes.Mistakes); diff != "" {
				t.Error(diff)
			}
			if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), row.want[len(row.want)-1]) {
				t.Errorf("the text lacks the file or the last mistake: %v", err)
			}
		})
	}
}

func TestLoadFileThatCannotBeRead(t *testing.T) {
	big := file(t, strings.Repeat("#", 1<<20+1))
	for path, want := range map[string]string{filepath.Join(t.TempDir(), "none"): "no such file", big: "more than 1048576", t.TempDir(): "is a directory"} {
		got := defaults()
		if err := conf.Load(conf.Source{Path: path}, &got); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: have %v, want %q", path, err, want)
		}
	}
	if err := conf.Load(conf.Source{}, server{}); err == nil {
		t.Error("a struct that cannot be filled was accepted")
	}
}

func TestFormatShowsEverythingButSecrets(t *testing.T) {
	s := defaults()
	s.Password = "hunter2"
	text, err := conf.Format(s)
	if err != nil {
		t.Fatal(err)
	}
	want := `hosts:
- localhost
- ip6-localhost
interval: 30s
listen:
  plain: false
  port: 8443
name: default
password: (hidden)
pin: ""
`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Error(diff)
	}
	if shown := fmt.Sprintf("%v %+v %#v %s", s, s, s, s.Password); strings.Contains(shown, "hunter2") {
		t.Errorf("the secret shows: %s", shown)
	}
	if s.Password.Reveal() != "hunter2" || conf.Secret("").String() != "" {
		t.Error("a secret lost its value")
	}
}

// What Format prints is a configuration again, but for its secrets.
func TestFormatRoundTrip(t *testing.T) {
	want, got := defaults(), server{}
	text, err := conf.Format(want)
	if err != nil {
		t.Fatal(err)
	}
	if err := conf.Load(conf.Source{Path: file(t, string(text))}, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(attest.Digest{})); diff != "" {
		t.Error(diff)
	}
}

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadCounts(t *testing.T) {
	events := `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"why\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"skip","Package":"p","Test":"TestC"}
{"Action":"fail","Package":"p"}
{"Action":"skip","Package":"q"}
`
	r := row{tier: "unit"}
	r.read(strings.NewReader(events))
	if r.tests != 2 || r.failed != 2 || r.skips != 1 {
		t.Errorf("%d tests, %d failed, %d skipped; want 2, 2 (a test and its package), 1", r.tests, r.failed, r.skips)
	}
}

// TestTierIsGood: a tier is good only if it ran a test, none failed, and under CI none was skipped.
func TestTierIsGood(t *testing.T) {
	t.Setenv("CI", "1")
	for name, c := range map[string]struct {
		row  row
		good bool
	}{
		"all passed":     {row{tests: 3}, true},
		"no test":        {row{}, false},
		"a failure":      {row{tests: 3, failed: 1}, false},
		"a skip":         {row{tests: 3, skips: 1}, false},
		"could not run":  {row{tests: 3, broken: errors.New("no go")}, false},
		"only skips ran": {row{skips: 2}, false},
	} {
		if c.row.ok() != c.good {
			t.Errorf("%s: ok is %v", name, c.row.ok())
		}
	}
	t.Setenv("CI", "")
	if skipped := (row{tests: 3, skips: 1}); !skipped.ok() {
		t.Error("a skip fails a person's run, who was told what is missing")
	}
}

// TestPreparation: it runs before its tier does and beside earlier ones, and a tier whose preparation fails does not run.
func TestPreparation(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	wait := tier{name: "late", prepare: []string{"touch", mark}}.startPreparing(t.Context())
	if err := wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(mark); err != nil {
		t.Error(err)
	}
	rows := runAll(t.Context(), []tier{{name: "broken", prepare: []string{"false"}}})
	if len(rows) != 1 || rows[0].ok() || rows[0].broken == nil || !strings.Contains(rows[0].broken.Error(), "prepare: false") {
		t.Errorf("%+v", rows)
	}
}

// packages runs the script with a PATH that holds only the given programs, each of which does nothing.
func packages(t *testing.T, programs ...string) (string, int) {
	t.Helper()
	path := t.TempDir()
	for _, name := range programs {
		if err := os.WriteFile(filepath.Join(path, name), []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/bin/sh", "../packages", "demo")
	cmd.Env = []string{"PATH=" + path}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestPackages: without a terminal and without YES nothing is installed; what is missing is named and the status is 3.
func TestPackages(t *testing.T) {
	for name, c := range map[string]struct {
		have []string
		want string
	}{
		"not Debian":       {nil, "this needs Debian 12 or newer"},
		"no Go":            {[]string{"dpkg-query", "apt-get"}, "Go 1.21 or newer is not in PATH"},
		"missing packages": {[]string{"dpkg-query", "apt-get", "go"}, "not installed: qemu-system-x86 swtpm"},
	} {
		out, code := packages(t, c.have...)
		if code != 3 || !strings.Contains(out, c.want) {
			t.Errorf("%s: status %d, %q", name, code, out)
		}
	}
}

package quickstart

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func shell(t *testing.T) *session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	folder := t.TempDir()
	s, err := open(ctx, folder, folder, os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestSession: blocks share variables, none reads the commands of the next as its input, and each yields what it printed.
func TestSession(t *testing.T) {
	s := shell(t)
	for i, c := range []struct{ script, want string }{
		{"A=one\ncat\n", ""},
		{"echo $A\n", "one\n"},
		{"cat <<EOF\n$A two\nEOF\necho three >&2\n", "one two\nthree\n"},
		{"until test -e file; do touch file; done\n", ""},
	} {
		if got, err := s.run(block{line: i, script: c.script}); err != nil || got != c.want {
			t.Errorf("%q printed %q, %v; want %q", c.script, got, err, c.want)
		}
	}
}

// TestCommandFails: the first command that fails ends it all, and the error says in which block and what the command said.
func TestCommandFails(t *testing.T) {
	for script, want := range map[string]string{
		"false\necho went on\n": "exit status 1",
		"echo $B\n":             "B: parameter not set",
		"B=$(echo no digest >&2; false)\necho b\n": "no digest",
		"(false; echo went on)\n":                  "exit status 1",
		"no-such-program\n":                        "no-such-program: not found",
		"if\n":                                     "line-7.sh",
	} {
		s := shell(t)
		if _, err := s.run(block{line: 6, script: "A=good\n"}); err != nil {
			t.Errorf("before %q: %v", script, err)
		}
		printed, err := s.run(block{line: 7, script: script})
		if err == nil || !strings.HasPrefix(err.Error(), "line 7: the shell ended") || !strings.Contains(err.Error(), want) || strings.Contains(printed, "went on") {
			t.Errorf("%q: %v, printed %q; want %q", script, err, printed, want)
		}
		if _, err := s.run(block{line: 8, script: "true\n"}); err == nil {
			t.Errorf("the shell went on after %q", script)
		}
	}
}

// TestNothingRunsOn: what a block left running ends with the session, also when a later command failed.
func TestNothingRunsOn(t *testing.T) {
	for _, last := range []string{"true\n", "false\n"} {
		s := shell(t)
		text, err := s.run(block{script: "sleep 300 > /dev/null &\necho $!\n"})
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.run(block{script: last}); (err == nil) != (last == "true\n") {
			t.Errorf("%q: %v", last, err)
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
		for deadline := time.Now().Add(10 * time.Second); !ended(pid); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d still runs", pid)
			}
		}
	}
}

// ended says whether a process is no more, or dead and not yet buried.
func ended(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) || strings.Contains(string(stat), ") Z ")
}

// TestEnvironment: a reader's shell is not part of a make and knows no login.
func TestEnvironment(t *testing.T) {
	t.Setenv("MAKEFLAGS", "-j2")
	t.Setenv("ASSAYCONFIG", "/nowhere")
	t.Setenv("KEPT", "1")
	got, err := environment(t.Context(), "/home/reader", "/programs")
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]string{}
	for _, variable := range got {
		name, value, _ := strings.Cut(variable, "=")
		last[name] = value
	}
	if last["HOME"] != "/home/reader" || !strings.HasPrefix(last["PATH"], "/programs:") || last["KEPT"] != "1" || last["GOCACHE"] == "" {
		t.Errorf("%v", last)
	}
	for _, name := range []string{"MAKEFLAGS", "ASSAYCONFIG"} {
		if slices.ContainsFunc(got, func(v string) bool { return strings.HasPrefix(v, name+"=") }) {
			t.Errorf("%s is kept", name)
		}
	}
}

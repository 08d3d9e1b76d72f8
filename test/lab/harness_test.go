package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay/stage"
	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/lab"
)

// programs is the folder with the programs under test.
var programs string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	folder, err := os.MkdirTemp("", "assay-lab-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	programs = folder
	for _, pkg := range []string{"../../cmd/assay", "../../cmd/assay-agent", "../../cmd/assay-labinit", "./memfdrun"} {
		build := exec.Command("go", "build", "-o", folder+"/", pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", pkg, err, out)
			return 1
		}
	}
	return m.Run()
}

const (
	program    = "/usr/bin/nightly-backup"
	original   = "#!/bin/sh\necho backup done\n"
	policyName = "lab-machine"
	interval   = 2 * time.Second
	patience   = 2 * time.Minute // for a verdict: emulated machines are slow, and this one shares its host
)

// exclusive holds the host's one place for machines until the test ends.
func exclusive(t *testing.T) {
	t.Helper()
	need.Lab(t)
	release, err := lab.Exclusive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := release(); err != nil {
			t.Error(err)
		}
	})
}

// set makes a stage on which the machine has registered.
func set(t *testing.T) *stage.Stage {
	t.Helper()
	exclusive(t)
	folder, err := os.MkdirTemp("", "assay-stage-") // t.TempDir's paths are too long for Unix sockets
	if err != nil {
		t.Fatal(err)
	}
	s, err := stage.New(stage.Config{
		Folder: folder, Programs: programs, Firmware: lab.SeaBIOS, Interval: interval,
		Files: []lab.File{
			{Path: program, Mode: 0o755, Data: []byte(original)},
			{Path: "/usr/bin/memfdrun", Mode: 0o755, Source: filepath.Join(programs, "memfdrun")},
		},
		Supervisor: []string{filepath.Join(programs, "assay"), "lab", "supervise"},
		Progress:   func(text string) { t.Log(text) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx := t.Context()
	for _, step := range []func(context.Context) error{
		s.StartServer, s.Boot,
		func(ctx context.Context) error { _, err := s.Endorse(ctx); return err },
		func(ctx context.Context) error { _, err := s.Register(ctx); return err },
		func(ctx context.Context) error { _, err := s.AddTreePolicy(ctx, policyName); return err },
	} {
		if err := step(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func enrol(t *testing.T, s *stage.Stage) {
	t.Helper()
	if _, err := s.Client.Enrol(t.Context(), api.EnrolRequest{ID: s.Agent, Policies: []string{policyName}}); err != nil {
		t.Fatal(err)
	}
	await(t, s, attest.Trusted)
}

func await(t *testing.T, s *stage.Stage, verdict attest.Verdict) api.Node {
	t.Helper()
	node, err := s.Await(t.Context(), verdict, patience)
	if err != nil {
		t.Fatal(err)
	}
	return node
}

func rounds(t *testing.T, s *stage.Stage, n uint64) api.Node {
	t.Helper()
	node, err := s.AwaitRounds(t.Context(), n, patience)
	if err != nil {
		t.Fatal(err)
	}
	return node
}

// in runs a shell line in the machine and returns what it printed.
func in(t *testing.T, s *stage.Stage, line string) string {
	t.Helper()
	out, err := s.Run(t.Context(), "/bin/sh", "-c", line)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

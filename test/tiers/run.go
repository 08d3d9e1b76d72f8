package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// event is a line of go test -json (cmd/test2json).
type event struct {
	Action, Package, Test, Output, ImportPath string
}

// runAll runs the tiers in order, while their preparations run in the background.
func runAll(ctx context.Context, all []tier) []row {
	prepared := make([]func() error, len(all))
	for i, t := range all {
		prepared[i] = t.startPreparing(ctx)
	}
	var rows []row
	for i, t := range all {
		if err := prepared[i](); err != nil {
			rows = append(rows, row{tier: t.name, broken: err})
			continue
		}
		rows = append(rows, t.run(ctx))
	}
	return rows
}

// startPreparing starts the tier's preparation, if it has one, and returns what waits for its end.
func (t tier) startPreparing(ctx context.Context) (wait func() error) {
	if len(t.prepare) == 0 {
		return func() error { return nil }
	}
	begin := time.Now()
	cmd := exec.CommandContext(ctx, "nice", append([]string{"-n", "10"}, t.prepare...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// go run has children.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	ended := make(chan error, 1)
	go func() { ended <- cmd.Run() }()
	return func() error {
		waiting := time.Now()
		if err := <-ended; err != nil {
			return fmt.Errorf("prepare: %s: %w", strings.Join(t.prepare, " "), err)
		}
		fmt.Printf("== %s: prepared within %.0f s, of which %.0f s were waited for\n", t.name, time.Since(begin).Seconds(), time.Since(waiting).Seconds())
		return nil
	}
}

func (t tier) run(ctx context.Context) row {
	begin := time.Now()
	r := row{tier: t.name}
	packages, err := t.list(ctx)
	if err != nil {
		r.broken = err
		return r
	}
	fmt.Printf("== %s: %d packages\n", t.name, len(packages))
	args := append([]string{"test", "-json"}, t.flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		r.broken = fmt.Errorf("start go test: %w", err)
		return r
	}
	r.read(out)
	if err := cmd.Wait(); err != nil && r.failed == 0 {
		r.broken = fmt.Errorf("go test: %w", err)
	}
	r.took = time.Since(begin)
	return r
}

// list resolves the tier's patterns to packages that have tests or not; what does not exist yet is left out.
func (t tier) list(ctx context.Context) ([]string, error) {
	have, err := goList(ctx, t.packages)
	if err != nil || len(t.without) == 0 {
		return have, err
	}
	without, err := goList(ctx, t.without)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(have, func(p string) bool { return slices.Contains(without, p) }), nil
}

func goList(ctx context.Context, patterns []string) ([]string, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-e", "-f", "{{if not .Error}}{{.ImportPath}}{{end}}"}, patterns...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, stderr.String())
	}
	return strings.Fields(string(out)), nil
}

// read counts the events of one run and prints the output of what failed.
func (r *row) read(events io.Reader) {
	lines := bufio.NewScanner(events)
	lines.Buffer(nil, 16<<20)
	output := map[string]*bytes.Buffer{}
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Println(lines.Text())
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "build-output":
			fmt.Print(e.Output)
		case "output":
			if output[key] == nil {
				output[key] = &bytes.Buffer{}
			}
			output[key].WriteString(e.Output)
		case "pass", "skip", "fail":
			r.count(e, output[key])
			delete(output, key)
		}
	}
}

func (r *row) count(e event, output *bytes.Buffer) {
	if e.Test != "" {
		r.tests++
	}
	name := strings.TrimPrefix(e.Package, module) + " " + e.Test
	switch {
	case e.Action == "fail":
		r.failed++
		fmt.Printf("--- FAIL %s\n", name)
		if output != nil {
			_, _ = io.Copy(os.Stdout, output)
		}
	case e.Action == "skip" && e.Test != "":
		r.skips++
		r.tests--
		r.skipped = append(r.skipped, name)
	case e.Action == "pass" && e.Test == "":
		fmt.Printf("ok   %s\n", strings.TrimSpace(strings.TrimPrefix(e.Package, module)))
	}
}

// fuzzOne fuzzes one target. Inputs are not minimised: that takes most of a short time. The engine may report its own deadline as a failure
// when the time is up (no input is written then); such a run is made once more.
func fuzzOne(ctx context.Context, pkg, name string, share time.Duration) (out []byte, err error) {
	for range 2 {
		cmd := exec.CommandContext(ctx, "go", "test", "-run=^$", "-fuzz=^"+name+"$", "-fuzztime="+share.String(), "-fuzzminimizetime=1x", pkg)
		out, err = cmd.CombinedOutput()
		if err == nil || !bytes.Contains(out, []byte("context deadline exceeded")) || bytes.Contains(out, []byte("Failing input written")) {
			break
		}
	}
	return out, err
}

// fuzzAll shares the time among all fuzz targets of the module.
func fuzzAll(ctx context.Context, budget time.Duration) row {
	begin := time.Now()
	r := row{tier: "fuzz"}
	packages, err := goList(ctx, []string{"./..."})
	if err != nil {
		r.broken = err
		return r
	}
	type target struct{ pkg, name string }
	var targets []target
	for _, pkg := range packages {
		out, err := exec.CommandContext(ctx, "go", "test", "-list", "^Fuzz", pkg).Output()
		if err != nil {
			r.broken = fmt.Errorf("list fuzz targets of %s: %w", pkg, err)
			return r
		}
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "Fuzz") {
				targets = append(targets, target{pkg, strings.TrimSpace(line)})
			}
		}
	}
	for _, t := range targets {
		share := max(budget/time.Duration(len(targets)), time.Second)
		out, err := fuzzOne(ctx, t.pkg, t.name, share)
		r.tests++
		name := strings.TrimPrefix(t.pkg, module) + " " + t.name
		if err != nil {
			r.failed++
			fmt.Printf("--- FAIL %s\n%s", name, out)
			continue
		}
		fmt.Printf("ok   %s for %v\n", name, share.Round(time.Second))
	}
	r.took = time.Since(begin)
	return r
}

// Command bench measures what the project promises, prints a table (figure, value, aim, met or short) and writes it to build/bench.json.
//
// A promise is a count, or a ratio of two parts of one benchmark that take turns on one core, measured in processor time, so that a noisy machine
// disturbs both alike. Absolute values are printed for information and have no aim.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// suite is a package with benchmarks.
type suite struct {
	pkg, pattern string
	flags        []string // of go test
	// demanding suites need what not every machine has: root and the programs of a cluster. Where that is missing they are left out, and say what it is.
	demanding bool
	figures   func(m medians) []figure
}

// figure is a row of the table.
type figure struct {
	Name  string  `json:"figure"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Aim is what was promised, in words; empty for a value that is only told.
	Aim string `json:"aim,omitempty"`
	// Verdict is met, short, or empty without an aim.
	Verdict string `json:"verdict,omitempty"`
}

// medians are the median values of each benchmark, by its name without the -CPU suffix, a space and the unit.
type medians map[string]float64

const listEntries = 100_000

// turns are the flags of a benchmark whose parts take turns on one core.
func turns() []string { return []string{"-cpu=1", "-count=5"} }

func suites() []suite {
	return []suite{
		{pkg: "./evidence/quote", pattern: "^BenchmarkVerify$", flags: turns(), figures: func(m medians) []figure {
			var all []figure
			for _, kind := range []string{"rsa2048", "p256"} {
				name := "BenchmarkVerify/" + kind + " "
				all = append(all,
					atMost("quote verification / bare signature check, "+kind, m[name+"verify/bare"], 1.3),
					figure{Name: "quote verification, " + kind, Value: m[name+"ns/verify"] / 1000, Unit: "us"})
			}
			return all
		}},
		{pkg: "./appraisal", pattern: "^BenchmarkReplayAppraise100k$", flags: turns(), figures: func(m medians) []figure {
			const name = "BenchmarkReplayAppraise100k "
			return []figure{
				atLeast("required hashes / replay and appraisal, 100,000 entries", m[name+"hashes/judge"], 0.7),
				{Name: "replay and appraisal", Value: listEntries / (m[name+"ns/judge"] / 1e9), Unit: "entries/s"},
				atLeast("the same with parsing the text and checking its hashes", m[name+"hashes/whole"], 0.7),
				{Name: "parsing, replay and appraisal", Value: listEntries / (m[name+"ns/whole"] / 1e9), Unit: "entries/s"},
			}
		}},
		{pkg: "./test/scale", pattern: "^BenchmarkFleet$", flags: []string{"-cpu=2", "-count=1", "-benchtime=1x", "-timeout=40m"}, demanding: true, figures: fleet},
	}
}

// fleet are the figures of the operator with 5,000 nodes. What they aim at are counts; times and memory are told.
func fleet(m medians) []figure {
	const name, of = "BenchmarkFleet-2 ", ", operator with 5,000 nodes"
	told := func(what, unit, key string) figure { return figure{Name: what + of, Value: m[name+key], Unit: unit} }
	none := func(what, key string) figure {
		value, measured := m[name+key]
		return judged(figure{Name: what + of, Value: value, Unit: "writes", Aim: "0"}, measured && value == 0)
	}
	return []figure{
		told("full reconcile after a start", "s", "s/reconcile"), told("full reconcile after a start", "CPU s", "cpu-s/reconcile"),
		told("all nodes join", "s", "s/join"), told("all nodes join", "CPU s", "cpu-s/join"), told("status writes of a node that joins", "writes", "writes/join"),
		told("most memory (RSS)", "MiB", "MiB/peak"), told("memory (RSS) at rest", "MiB", "MiB/idle"), told("CPU at rest", "ms/s", "cpu-ms/s-idle"),
		told("requests to the API server at rest", "1/s", "requests/s-idle"),
		none("status writes after a start", "writes/restart"), none("status writes at rest", "writes/idle"),
	}
}

// atMost judges a ratio. One of zero was not measured, and is short.
func atMost(name string, value, aim float64) figure {
	return judged(figure{Name: name, Value: value, Unit: "ratio", Aim: fmt.Sprintf("<= %.2f", aim)}, value > 0 && value <= aim)
}

func atLeast(name string, value, aim float64) figure {
	return judged(figure{Name: name, Value: value, Unit: "ratio", Aim: fmt.Sprintf(">= %.2f", aim)}, value >= aim)
}

func judged(f figure, met bool) figure {
	f.Verdict = "short"
	if met {
		f.Verdict = "met"
	}
	return f
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var all []figure
	for _, s := range suites() {
		fmt.Fprintf(os.Stderr, "measuring %s\n", s.pkg)
		m, err := s.measure(ctx)
		if s.demanding && errors.Is(err, errNoBenchmark) {
			fmt.Fprintf(os.Stderr, "left out: %v\n", err)
			continue
		} else if err != nil {
			return err
		}
		all = append(all, s.figures(m)...)
	}
	for _, f := range all {
		fmt.Printf("%-68s %12.2f %-10s %-8s %s\n", f.Name, f.Value, f.Unit, f.Aim, f.Verdict)
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll("build", 0o755); err != nil {
		return err
	}
	return os.WriteFile("build/bench.json", append(text, '\n'), 0o644)
}

func (s suite) measure(ctx context.Context) (medians, error) {
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"test", "-run=^$", "-bench=" + s.pattern}, s.flags, []string{s.pkg})...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", s.pkg, err, out)
	}
	m, err := parse(out)
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", s.pkg, err, out)
	}
	return m, nil
}

var errNoBenchmark = errors.New("no benchmark ran")

// parse reads the lines "BenchmarkName  N  12.3 ns/op  4.5 other/unit ...".
func parse(out []byte) (medians, error) {
	values := map[string][]float64{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 4 || !strings.HasPrefix(words[0], "Benchmark") {
			continue
		}
		for pair := range slices.Chunk(words[2:], 2) {
			value, err := strconv.ParseFloat(pair[0], 64)
			if err != nil || len(pair) < 2 {
				return nil, fmt.Errorf("line %q: no value and unit at %q", lines.Text(), pair)
			}
			name := words[0] + " " + pair[1]
			values[name] = append(values[name], value)
		}
	}
	if len(values) == 0 {
		return nil, errNoBenchmark
	}
	m := medians{}
	for name, v := range values {
		slices.Sort(v)
		m[name] = v[len(v)/2]
	}
	return m, nil
}

// Command bench measures what the project promises, prints a table (figure, value, aim, met or short) and writes it to build/bench.json.
//
// A promise is a ratio of two parts of one benchmark that take turns on one core, measured in processor time, so that a noisy machine disturbs both
// alike. Absolute values are printed for information and have no aim.
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
	figures      func(m medians) []figure
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

func suites() []suite {
	return []suite{
		{"./evidence/quote", "^BenchmarkVerify$", func(m medians) []figure {
			var all []figure
			for _, kind := range []string{"rsa2048", "p256"} {
				name := "BenchmarkVerify/" + kind + " "
				all = append(all,
					atMost("quote verification / bare signature check, "+kind, m[name+"verify/bare"], 1.3),
					figure{Name: "quote verification, " + kind, Value: m[name+"ns/verify"] / 1000, Unit: "us"})
			}
			return all
		}},
		{"./appraisal", "^BenchmarkReplayAppraise100k$", func(m medians) []figure {
			const name = "BenchmarkReplayAppraise100k "
			return []figure{
				atLeast("required hashes / replay and appraisal, 100,000 entries", m[name+"hashes/judge"], 0.7),
				{Name: "replay and appraisal", Value: listEntries / (m[name+"ns/judge"] / 1e9), Unit: "entries/s"},
				atLeast("the same with parsing the text and checking its hashes", m[name+"hashes/whole"], 0.7),
				{Name: "parsing, replay and appraisal", Value: listEntries / (m[name+"ns/whole"] / 1e9), Unit: "entries/s"},
			}
		}},
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
		if err != nil {
			return err
		}
		all = append(all, s.figures(m)...)
	}
	for _, f := range all {
		fmt.Printf("%-62s %12.2f %-10s %-8s %s\n", f.Name, f.Value, f.Unit, f.Aim, f.Verdict)
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
	cmd := exec.CommandContext(ctx, "go", "test", "-run=^$", "-bench="+s.pattern, "-cpu=1", "-count=5", s.pkg)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", s.pkg, err, out)
	}
	return parse(out)
}

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
		return nil, errors.New("no benchmark ran")
	}
	m := medians{}
	for name, v := range values {
		slices.Sort(v)
		m[name] = v[len(v)/2]
	}
	return m, nil
}

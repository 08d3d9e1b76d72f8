package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	got, err := parse([]byte("goos: linux\nBenchmarkA/x \t 5\t 3.5 ns/a\t 2 ratio\nBenchmarkA/x 5 1 ns/a 9 ratio\nBenchmarkA/x 5 2 ns/a 4 ratio\nPASS\n"))
	if diff := cmp.Diff(medians{"BenchmarkA/x ns/a": 2, "BenchmarkA/x ratio": 4}, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	for _, text := range []string{"", "PASS\n", "BenchmarkA 5 fast ns/op\n", "BenchmarkA 5 1 ns/op 7\n"} {
		if got, err := parse([]byte(text)); err == nil {
			t.Errorf("%q gives %v", text, got)
		}
	}
}

func TestVerdicts(t *testing.T) {
	for _, row := range []struct {
		got  figure
		want string
	}{
		{atMost("a", 1.3, 1.3), "met"},
		{atMost("a", 1.31, 1.3), "short"},
		{atMost("not measured", medians{}["a"], 1.3), "short"},
		{atLeast("a", 0.7, 0.7), "met"},
		{atLeast("a", 0.69, 0.7), "short"},
		{atLeast("not measured", medians{}["a"], 0.7), "short"},
	} {
		if row.got.Verdict != row.want {
			t.Errorf("%+v, want %s", row.got, row.want)
		}
	}
}

// TestFleet: writes that were not counted are not none.
func TestFleet(t *testing.T) {
	verdicts := func(m medians) (found []string) {
		for _, f := range fleet(m) {
			if f.Aim != "" {
				found = append(found, f.Verdict)
			}
		}
		return found
	}
	const restart, idle = "BenchmarkFleet-2 writes/restart", "BenchmarkFleet-2 writes/idle"
	for _, row := range []struct {
		m    medians
		want []string
	}{
		{medians{restart: 0, idle: 0}, []string{"met", "met"}},
		{medians{restart: 1, idle: 0}, []string{"short", "met"}},
		{medians{}, []string{"short", "short"}},
	} {
		if diff := cmp.Diff(row.want, verdicts(row.m)); diff != "" {
			t.Error(diff)
		}
	}
}

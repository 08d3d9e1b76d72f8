package ima

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/assay-project/assay/attest"
)

// boundary is one round: how many entries the list shows and how many of them the quote covers.
type boundary struct{ covered, shown int }

// story is a boot and the rounds in which it was attested.
type story struct {
	bank, column attest.Hash
	form         form
	all          []measurement
	rounds       []boundary
}

func drawStory(t *rapid.T) story {
	s := story{
		bank:   rapid.SampledFrom(attest.Hashes()).Draw(t, "bank"),
		column: rapid.SampledFrom(attest.Hashes()).Draw(t, "column"),
		form:   form(rapid.IntRange(0, int(formCount)-1).Draw(t, "form")),
	}
	for i := range rapid.IntRange(0, 12).Draw(t, "entries") {
		m := rapid.SampledFrom(samples()).Draw(t, "sample")
		m.pcr = rapid.SampledFrom([]int{10, 10, 11}).Draw(t, "pcr")
		m.violation = rapid.IntRange(0, 3).Draw(t, "violation") == 0
		if len(m.name) < 200 {
			m.name += fmt.Sprintf("-%d", i)
		}
		s.all = append(s.all, m)
	}
	covered := 0
	for range rapid.IntRange(0, 5).Draw(t, "rounds") {
		covered = rapid.IntRange(covered, len(s.all)).Draw(t, "covered")
		shown := rapid.IntRange(covered, len(s.all)).Draw(t, "shown")
		s.rounds = append(s.rounds, boundary{covered, shown})
		covered = shown // the next quote covers what was shown
	}
	s.rounds = append(s.rounds, boundary{len(s.all), len(s.all)})
	return s
}

// run replays the rounds and returns what was proven in all of them, and the last state.
func (s story) run(parse func([]measurement) (List, error)) (paths []string, state State, err error) {
	for i, b := range s.rounds {
		from := int(state.Position)
		list, err := parse(s.all[from:max(from, b.shown)])
		if err != nil {
			return nil, State{}, err
		}
		quoted := extended(s.bank, s.form, 10, s.all[:b.covered]...)
		replayed, failures := list.replay(quoted, Request{PCR: 10, First: state.Position, From: state})
		if failures != nil {
			return nil, State{}, fmt.Errorf("round %d of %v: %v", i, s.rounds, failures)
		}
		for position, e := range replayed.All() {
			paths = append(paths, fmt.Sprintf("%d %s %s %v", position, e.Path, e.Digest, e.Violation))
		}
		state = replayed.State()
	}
	return paths, state, nil
}

// Replay in rounds, wherever they fall, proves what one replay proves.
func TestSplitReplay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawStory(t)
		text := func(m []measurement) (List, error) { return ParseASCII(asciiOf(s.column, m...)) }
		raw := func(m []measurement) (List, error) { return ParseBinary(binaryOf(s.column, m...)) }
		whole := s
		whole.rounds = s.rounds[len(s.rounds)-1:]
		wantPaths, wantState, err := whole.run(text)
		if err != nil {
			t.Fatal(err)
		}
		for name, parse := range map[string]func([]measurement) (List, error){"text": text, "binary": raw} {
			paths, state, err := s.run(parse)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if diff := cmp.Diff(wantPaths, paths); diff != "" {
				t.Fatalf("%s: entries (-at once +in rounds):\n%s", name, diff)
			}
			if diff := cmp.Diff(wantState, state, equateDigests()); diff != "" {
				t.Fatalf("%s: state (-at once +in rounds):\n%s", name, diff)
			}
		}
	})
}

// Each captured list, split at each entry, ends as it does at once.
func TestSplitCaptures(t *testing.T) {
	for _, set := range captures {
		list := parsed(t, set, attest.SHA1)["ascii"]
		quoted := capturedPCRs(t, set, attest.SHA256).Digests[10]
		whole, failures := list.replay(quoted, Request{PCR: 10})
		if failures != nil {
			t.Fatal(failures)
		}
		for split := range list.Len() {
			head, tail := list, list
			head.records, tail.records = list.records[:split], list.records[split:]
			w := walk{list: &head, pcr: 10}
			w.from, _ = begin(Request{PCR: 10}, attest.SHA256)
			middle, _ := w.extend(native, attest.SHA256.Sum([]byte("nothing extends to this")))
			first, failures := head.replay(middle.value, Request{PCR: 10})
			if failures != nil {
				t.Fatalf("%s: first %d: %v", set, split, failures)
			}
			second, failures := tail.replay(quoted, Request{PCR: 10, First: uint64(split), From: first.State()})
			if failures != nil {
				t.Fatalf("%s: from %d on: %v", set, split, failures)
			}
			if diff := cmp.Diff(whole.State(), second.State(), equateDigests()); diff != "" {
				t.Errorf("%s: split at %d (-at once +in two):\n%s", set, split, diff)
			}
		}
	}
}

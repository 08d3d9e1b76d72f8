package verifier

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/boxtest"
)

// Nonces are 20 letters and digits, all different, each letter about as often as any other.
func TestNonce(t *testing.T) {
	v, err := New(Config{Store: NewMemoryStore(), Evidence: NewMemoryStore(), Policies: NewMemoryStore(), Reactions: NewMemoryStore(), Collector: &fleet{}})
	if err != nil {
		t.Fatal(err)
	}
	seen, letters := map[string]bool{}, map[rune]int{}
	const count = 3100
	for range count {
		nonce, err := v.nonce()
		if err != nil || len(nonce) != nonceLength || seen[nonce] {
			t.Fatalf("%q, %v", nonce, err)
		}
		seen[nonce] = true
		for _, letter := range nonce {
			letters[letter]++
		}
	}
	for _, letter := range nonceLetters { // 1000 each on average, 32 the standard deviation
		if n := letters[letter]; n < 750 || n > 1250 {
			t.Errorf("%c occurs %d times in %d letters", letter, n, count*nonceLength)
		}
	}
	if len(letters) != len(nonceLetters) {
		t.Errorf("%d letters, want %d", len(letters), len(nonceLetters))
	}
}

func TestConfigIsChecked(t *testing.T) {
	m := NewMemoryStore()
	good := Config{Store: m, Evidence: m, Policies: m, Reactions: m, Collector: &fleet{}}
	for name, edit := range map[string]func(*Config){
		"no store": func(c *Config) { c.Store = nil }, "no evidence": func(c *Config) { c.Evidence = nil },
		"no policies": func(c *Config) { c.Policies = nil }, "no collector": func(c *Config) { c.Collector = nil },
		"a short interval": func(c *Config) { c.Interval = time.Second - 1 }, "a negative concurrency": func(c *Config) { c.Concurrency = -1 },
	} {
		c := good
		edit(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}

// A state that was stored is read as it was written: what is lost there would be a false alarm after a restart.
func TestStateAsJSON(t *testing.T) {
	w := newWorld(t, boxtest.Document(t, "base"))
	w.round(boxtest.Faults{"ghost": "/usr/bin/a"})
	w.round(boxtest.Faults{"no-list": ""})
	text, err := json.Marshal(w.state)
	if err != nil {
		t.Fatal(err)
	}
	var read State
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	if again, err := json.Marshal(read); err != nil || string(again) != string(text) {
		t.Errorf("%v\n%s\n%s", err, text, again)
	}
	if diff := cmp.Diff(fmt.Sprintf("%+v", w.state.IMA), fmt.Sprintf("%+v", read.IMA)); read.IMA.Held == nil || w.state.IMA.Held == nil {
		t.Error(diff)
	}
}

// A file's name may hold a newline, and then agents count differently: Keylime's count lines, ours entries. No position means the same
// to all of them but the start.
func TestNameWithANewline(t *testing.T) {
	w := newWorld(t, boxtest.Document(t, "base"))
	w.box.Run("/usr/bin/two\nlines", "")
	w.round(nil)
	for range 2 {
		w.box.Run("/usr/bin/true", "")
		w.round(nil)
	}
	if got := ids(w.state.Failures); !slices.Equal(got, []attest.FailureID{attest.FileNotInPolicy}) || w.state.IMA.Position != 6 {
		t.Errorf("at entry %d: %v", w.state.IMA.Position, w.state.Failures)
	}
	if r, _ := w.ask(); r.Offset != 0 {
		t.Errorf("asked from %d", r.Offset)
	}
}

// The longest interval is one that still turns a node Stale within days.
func TestIntervals(t *testing.T) {
	for interval, good := range map[time.Duration]bool{
		0: true, minInterval - 1: false, minInterval: true, maxInterval: true, maxInterval + 1: false, -time.Second: false,
	} {
		if err := checkInterval(interval); errors.Is(err, ErrInvalid) == good || (err == nil) != good {
			t.Errorf("%v: %v", interval, err)
		}
	}
}

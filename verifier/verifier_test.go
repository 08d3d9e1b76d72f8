package verifier

import (
	"errors"
	"testing"
	"time"
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

package verifier

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/boxtest"
	"github.com/assay-project/assay/verifier/machine"
)

const day = 24 * time.Hour

// keeping is a fleet of one machine whose verifier cleans up.
func keeping(t *testing.T, evidence time.Duration) (*fleet, *boxtest.Box) {
	t.Helper()
	f := newFleet(t, boxtest.Document(t, "base"))
	f.cfg.Interval, f.cfg.Retention = time.Hour, Retention{Store: f.store, Evidence: evidence}
	f.start()
	b := f.enrol(node1, "base")
	sleep(2 * time.Hour)
	return f, b
}

// counted is the value of a counter with one label.
func counted(t *testing.T, registry *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// A boot's evidence stays for as long after its end as the configuration says, while its history stays for good.
func TestEvidenceOfEndedBootsExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		f := newFleet(t, boxtest.Document(t, "base"))
		f.cfg.Interval, f.cfg.Metrics, f.cfg.Retention = time.Hour, registry, Retention{Store: f.store, Evidence: 2 * day}
		f.start()
		defer f.end()
		b := f.enrol(node1, "base")
		sleep(3 * day)
		first := f.want(node1, attest.Trusted).State.Boot
		if _, err := f.store.List(t.Context(), node1, first); err != nil {
			t.Fatalf("list of the current boot, which is older than what is kept: %v", err)
		}
		f.on(b.Reset)
		sleep(2*day - 2*time.Hour)
		second := f.want(node1, attest.Trusted).State.Boot
		if _, err := f.store.List(t.Context(), node1, first); err != nil || second == first {
			t.Fatalf("list of %s, before its time: %v; the boot now is %s", first, err, second)
		}
		sleep(4 * time.Hour)
		if _, err := f.store.List(t.Context(), node1, first); !errors.Is(err, ErrNotFound) {
			t.Errorf("list of %s, after its time: %v", first, err)
		}
		if _, err := f.store.List(t.Context(), node1, second); err != nil {
			t.Errorf("list of the current boot: %v", err)
		}
		f.want(node1, attest.Trusted)
		f.wantVerdicts(node1, attest.Pending, attest.Trusted)
		if have := counted(t, registry, "assay_verifier_expired_total", "boots"); have != 1 {
			t.Errorf("the metric counts %v boots, want 1", have)
		}
	})
}

func TestEvidenceIsKeptForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := keeping(t, 0)
		defer f.end()
		first := f.want(node1, attest.Trusted).State.Boot
		f.on(b.Reset)
		sleep(20 * day)
		if _, err := f.store.List(t.Context(), node1, first); err != nil {
			t.Errorf("list of %s: %v", first, err)
		}
	})
}

// A store that fails in the middle of a clean-up costs that clean-up: rounds go on, and the next one ends what was begun. What else expires is swept.
func TestCleanUpThatFailsIsDoneLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base"))
		swept := 0
		f.cfg.Interval = time.Hour
		f.cfg.Retention = Retention{Store: f.store, Evidence: day, Sweep: func(context.Context, time.Time) error { swept++; return nil }}
		expired := Token{ID: "t", Created: time.Now(), Expires: time.Now().Add(time.Hour)}
		if err := f.store.AddToken(t.Context(), expired); err != nil {
			t.Fatal(err)
		}
		f.start()
		defer f.end()
		b := f.enrol(node1, "base")
		var boots []string
		for range 3 {
			sleep(2 * time.Hour)
			boots = append(boots, f.want(node1, attest.Trusted).State.Boot)
			f.on(b.Reset)
		}
		left := func() (count int) {
			for _, boot := range boots {
				if _, err := f.store.List(t.Context(), node1, boot); err == nil {
					count++
				}
			}
			return count
		}
		calls := 0
		f.store.mu.Lock()
		f.store.expiry = func() error { // the second batch that would delete something, and all after it
			if calls++; len(f.store.nodes[node1].lists) < 4 {
				return errors.New("the disk is full")
			}
			return nil
		}
		f.store.mu.Unlock()
		sleep(3 * day)
		if have := left(); have != 2 || calls < 10 {
			t.Errorf("%d of 3 ended boots are left after %d calls, want 2", have, calls)
		}
		f.want(node1, attest.Trusted)
		f.store.mu.Lock()
		f.store.expiry = nil
		f.store.mu.Unlock()
		sleep(day)
		if have := left(); have != 0 || swept == 0 {
			t.Errorf("%d of 3 ended boots are left, swept %d times", have, swept)
		}
		if tokens, err := f.store.Tokens(t.Context()); err != nil || len(tokens) != 1 {
			t.Errorf("tokens %v, %v: one that just expired is still listed", tokens, err)
		}
		sleep(tokenGrace)
		if tokens, err := f.store.Tokens(t.Context()); err != nil || len(tokens) != 0 {
			t.Errorf("tokens %v, %v: want none", tokens, err)
		}
	})
}

// Whatever machines do and however long they are away, a clean-up never takes what the next round or a changed policy needs: the list, the
// event log and the last accepted quote of the boot that a node is in.
func TestCleanUpNeverTakesTheCurrentBoot(t *testing.T) {
	documents := []string{"base", "more"}
	rapid.Check(t, func(r *rapid.T) {
		acts := rapid.SliceOfN(rapid.SampledFrom([]string{"reset", "restart", "suspend", "run", "silent", "speak", "reimage", "wait", "policy", "reattest"}), 1, 5).Draw(r, "acts")
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, boxtest.Document(t, "base"), boxtest.Document(t, "more", "/usr/bin/a"))
			f.cfg.Interval, f.cfg.Retention = 6*time.Hour, Retention{Store: f.store, Evidence: day}
			f.start()
			defer f.end()
			b := f.enrol(node1, "base")
			sleep(time.Hour)
			for i, act := range acts {
				f.happens(b, act, documents[i%2:i%2+1])
				sleep(day + 3*time.Hour)
				n := f.node(node1)
				if _, err := f.store.Quote(t.Context(), node1, attest.Digest{}); err != nil {
					t.Fatalf("after %v: last quote: %v", acts[:i+1], err)
				}
				if n.State.Boot == "" {
					continue
				}
				list, listErr := f.store.List(t.Context(), node1, n.State.Boot)
				_, logErr := f.store.BootLog(t.Context(), node1, n.State.Boot)
				if listErr != nil || logErr != nil || list.Count < n.State.IMA.Position {
					t.Fatalf("after %v: list of %d entries, want %d: %v, boot log: %v", acts[:i+1], list.Count, n.State.IMA.Position, listErr, logErr)
				}
			}
		})
	})
}

// happens does one thing that happens to a machine or its node.
func (f *fleet) happens(b *boxtest.Box, act string, policies []string) {
	f.t.Helper()
	var err error
	switch act {
	case "reset":
		f.on(b.Reset)
	case "restart":
		f.on(b.Restart)
	case "suspend":
		f.on(b.Suspend)
	case "run":
		f.on(func() { b.Run("/usr/bin/a", "") })
	case "silent":
		f.on(func() { f.silent[string(node1)] = errors.New("unplugged") })
	case "speak":
		f.on(func() { delete(f.silent, string(node1)) })
	case "reimage":
		f.on(b.Reimage)
		r := registeredBox(b)
		r.Address = string(node1)
		err = f.v.Approve(f.t.Context(), r)
	case "policy":
		err = f.v.Update(f.t.Context(), node1, Update{Policies: &policies})
	case "reattest":
		err = f.v.Do(f.t.Context(), node1, machine.Reattest)
	}
	if err != nil {
		f.t.Fatalf("%s: %v", act, err)
	}
}

func TestConfigRefusesBadRetention(t *testing.T) {
	store := NewMemoryStore()
	for name, row := range map[string]struct {
		retention Retention
		want      string
	}{
		"too short":       {Retention{Store: store, Evidence: day - 1}, "evidence retention 23h59m59.999999999s is below 24h0m0s"},
		"negative":        {Retention{Store: store, Evidence: -1}, "is below 24h0m0s"},
		"without a store": {Retention{Evidence: day}, "needs a store"},
		"good":            {Retention{Store: store, Evidence: day}, ""},
		"for ever":        {Retention{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(Config{Store: store, Evidence: store, Policies: store, Reactions: store, Collector: &fleet{}, Retention: row.retention})
			if have := fmt.Sprint(err); (row.want == "") != (err == nil) || row.want != "" && !strings.Contains(have, row.want) {
				t.Errorf("have %v, want %q", err, row.want)
			}
		})
	}
}

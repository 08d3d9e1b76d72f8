package platform

import (
	"bytes"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/mtls"
)

var start = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func newAuthorities(t *testing.T) authorities {
	t.Helper()
	set, err := mtls.New(func() time.Time { return start })
	if err != nil {
		t.Fatal(err)
	}
	return authorities{current: set, phase: stable, since: start.Add(-time.Hour), serial: 1}
}

// step asserts the phase that follows, and that the Secret keeps everything.
func step(t *testing.T, a authorities, w want, phase phase, changed bool) authorities {
	t.Helper()
	next, did, err := a.step(w)
	if err != nil || next.phase != phase || did != changed {
		t.Fatalf("from %s: got %s, changed %v, %v; want %s, %v", a.phase, next.phase, did, err, phase, changed)
	}
	data, err := next.data()
	if err != nil {
		t.Fatal(err)
	}
	read, err := parseAuthorities(data, func() time.Time { return w.now })
	if err != nil {
		t.Fatal(err)
	}
	again, err := read.data()
	if err != nil || !sameData(data, again) {
		t.Fatalf("what was read is not what was written: %v", err)
	}
	return read
}

// TestRotation is the whole way: nobody is ever shown a certificate that the bundle before did not hold.
func TestRotation(t *testing.T) {
	w := want{now: start, overlap: 10 * time.Minute, settled: true}
	a := step(t, newAuthorities(t), w, stable, false)
	old := string(a.current.ServerCAs())

	w.asked = "2026-11-21"
	a = step(t, a, w, announced, true)
	servers, clients := a.bundles()
	if string(a.current.ServerCAs()) != old || !bytes.Contains(servers, a.next.ServerCAs()) || !bytes.Contains(clients, a.next.ClientCAs()) {
		t.Error("announced: the next authorities are not in the bundles, or sign already")
	}
	if mark := a.mark(w); mark != "1" {
		t.Errorf("mark %s: agents start anew before the server has the bundles", mark)
	}
	w.now = start.Add(6 * time.Minute)
	if a = step(t, a, w, announced, false); a.mark(w) != "2" {
		t.Errorf("mark %s", a.mark(w))
	}
	w.now, w.settled = start.Add(11*time.Minute), false
	a = step(t, a, w, announced, false) // a rollout hangs
	if a.wait(w) <= 0 {
		t.Error("nobody looks again")
	}
	w.settled = true
	a = step(t, a, w, switched, true)
	servers, _ = a.bundles()
	if string(a.current.ServerCAs()) == old || !strings.Contains(string(servers), old) {
		t.Error("switched: the old authority still signs, or is not trusted any more")
	}
	w.now = w.now.Add(11 * time.Minute)
	a = step(t, a, w, stable, true)
	if servers, _ = a.bundles(); strings.Contains(string(servers), old) {
		t.Error("stable: the old authority is still trusted")
	}
	w.now = w.now.Add(time.Hour)
	if a = step(t, a, w, stable, false); a.wait(w) != 0 {
		t.Error("a rotation that is done waits for something")
	}
}

func TestRotationBeforeTheEnd(t *testing.T) {
	a := newAuthorities(t)
	step(t, a, want{now: a.current.Expires().Add(-renewAuthorities - time.Hour), settled: true}, stable, false)
	step(t, a, want{now: a.current.Expires().Add(-renewAuthorities + time.Hour), settled: true}, announced, true)
}

func TestParseAuthoritiesRefuses(t *testing.T) {
	good, err := newAuthorities(t).data()
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return start }
	for name, change := range map[string]func(map[string][]byte){
		"another phase":        func(d map[string][]byte) { d["phase"] = []byte("Halfway") },
		"no time":              func(d map[string][]byte) { delete(d, "since") },
		"no serial":            func(d map[string][]byte) { delete(d, "serial") },
		"no key":               func(d map[string][]byte) { delete(d, "servers-ca.key") },
		"announced, none next": func(d map[string][]byte) { d["phase"] = []byte("Announced") },
	} {
		data := maps.Clone(good)
		change(data)
		if _, err := parseAuthorities(data, now); err == nil || !strings.Contains(err.Error(), SecretAuthorities) {
			t.Errorf("%s: %v; want an error that names the Secret", name, err)
		}
	}
	if _, err := parseAuthorities(good, now); err != nil {
		t.Error(err)
	}
}

func TestLeaves(t *testing.T) {
	a := newAuthorities(t)
	server := leaves("assay", []string{"attest.example", "192.0.2.1", "2001:db8::1"})[0]
	first, err := server.data(a, nil, start)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.good(a, first, start); err != nil {
		t.Fatalf("a new certificate is not good: %v", err)
	}
	again, err := server.data(a, first, start.Add(30*24*time.Hour))
	if err != nil || !sameData(first, again) {
		t.Errorf("a good certificate was made anew: %v", err)
	}
	other := newAuthorities(t)
	for name, bad := range map[string]error{
		"near its end":           server.good(a, first, start.Add(61*24*time.Hour)),
		"of another authority":   server.good(other, first, start),
		"for other hosts":        leaves("assay", []string{"other.example"})[0].good(a, first, start),
		"for more hosts":         leaves("assay", nil)[0].good(a, first, start),
		"absent":                 server.good(a, nil, start),
		"of another role":        leaf{SecretOperator, mtls.Administrator, nil}.good(a, mustData(t, leaf{SecretOperator, mtls.Operator, nil}, a), start),
		"a client's as server's": leaf{SecretServer, mtls.Server, nil}.good(a, mustData(t, leaf{SecretOperator, mtls.Operator, nil}, a), start),
	} {
		if bad == nil {
			t.Errorf("%s: good", name)
		}
	}
}

func mustData(t *testing.T, l leaf, a authorities) map[string][]byte {
	t.Helper()
	data, err := l.data(a, nil, start)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

package attest

import (
	"bytes"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDigestRoundTrip(t *testing.T) {
	for _, h := range Hashes() {
		d := h.Sum([]byte("assay"), []byte("!"))
		if want := h.Sum([]byte("assay!")); d != want {
			t.Errorf("%s: parts hash to %s, the whole to %s", h, d, want)
		}
		back, err := ParseDigest(d.String())
		if err != nil || back != d {
			t.Errorf("%s: parse %q: %v, %v", h, d, back, err)
		}
		if !bytes.Equal(d.AppendBytes([]byte{7}), append([]byte{7}, d.Bytes()...)) || len(d.Bytes()) != h.Size() || h.Size() != h.New().Size() {
			t.Errorf("%s: %d bytes, size %d", h, len(d.Bytes()), h.Size())
		}
	}
}

func TestDigestRefused(t *testing.T) {
	good := SHA256.Sum(nil)
	for name, text := range map[string]string{
		"empty": "", "no colon": good.Hex(), "unknown algorithm": "md5:" + good.Hex(), "odd digit": good.String() + "0",
		"short": "sha256:00", "long": good.String() + "00", "no hex": "sha256:" + strings.Repeat("zz", 32), "another's size": "sha1:" + good.Hex(),
	} {
		if d, err := ParseDigest(text); err == nil {
			t.Errorf("%s: %q gave %s", name, text, d)
		}
	}
	if _, err := NewDigest(Hash(0x12), good.Bytes()); err == nil {
		t.Error("an unknown algorithm was accepted")
	}
}

func TestDigestJSON(t *testing.T) {
	type body struct{ Digest Digest }
	for _, want := range []body{{SHA384.Sum([]byte("x"))}, {}} {
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got body
		if err := json.Unmarshal(text, &got); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

// TestUnknownHash: nothing of an algorithm that we do not know can pass for one that we do.
func TestUnknownHash(t *testing.T) {
	h := Hash(0x0012) // SM3-256
	if h.Known() || h.Size() != 0 || h.Crypto() != 0 {
		t.Errorf("%s is taken for known", h)
	}
	if got := h.String(); got != "alg-0x0012" {
		t.Errorf("unknown algorithm is named %q", got)
	}
}

func TestParseAgentID(t *testing.T) {
	for _, good := range []string{"a", "d432fbb3-d2f1-4a97-9ef7-75bd81c00000", "node_1.example", strings.Repeat("a", MaxAgentIDBytes)} {
		if id, err := ParseAgentID(good); err != nil || string(id) != good {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", ".", "-a", "_a", "a/b", "a b", "a\x00", "ä", "a\n", "..", strings.Repeat("a", MaxAgentIDBytes+1)} {
		if id, err := ParseAgentID(bad); err == nil {
			t.Errorf("%q was accepted as %q", bad, id)
		}
	}
}

// TestEKHash compares with a value that Keylime's agent made of the same key (hash_ek, reference 1.8): SHA-256 of the PEM text.
func TestEKHash(t *testing.T) {
	der, err := os.ReadFile("testdata/ek.spki.der")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/ek.spki.sha256-of-pem")
	if err != nil {
		t.Fatal(err)
	}
	id := EKHash(der)
	if want := strings.TrimSpace(string(text)); string(id) != want {
		t.Errorf("EK hash %s, want %s", id, want)
	}
	label, ok := id.Label()
	if !ok || len(label) != 52 {
		t.Fatalf("label %q, %v", label, ok)
	}
	sum, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(label))
	if err != nil || hex.EncodeToString(sum) != string(id) {
		t.Errorf("label %q is not the same 32 bytes: %v", label, err)
	}
	if label, ok := AgentID("node-1").Label(); ok {
		t.Errorf("a name that is no EK hash got the label %q", label)
	}
}

func TestEveryFailureHasARow(t *testing.T) {
	seen := map[FailureID]bool{}
	for _, info := range Infos() {
		if seen[info.ID] {
			t.Errorf("%s stands twice in the table", info.ID)
		}
		seen[info.ID] = true
		if info.Sentence == "" || info.Remedy == "" || info.Class == "" {
			t.Errorf("%s: class, sentence and remedy must be there", info.ID)
		}
		if diff := cmp.Diff(info, info.ID.Info()); diff != "" {
			t.Error(diff)
		}
	}
	source, err := os.ReadFile("failures.go")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(source)) {
		if name, _, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.Contains(line, "FailureID = \"") && !seen[FailureID(name)] {
			t.Errorf("%s is a constant without a row", name)
		}
	}
}

// TestUnknownFailureFailsClosed: an ID without a row is the worst of all.
func TestUnknownFailureFailsClosed(t *testing.T) {
	info := FailureID("Forgotten").Info()
	if info.Severity != Emergency || info.Class != Integrity {
		t.Errorf("an unknown failure is %v of class %s", info.Severity, info.Class)
	}
}

func TestSeverityText(t *testing.T) {
	for s := Info; s <= Emergency; s++ {
		text, err := s.MarshalText()
		var back Severity
		if err != nil || back.UnmarshalText(text) != nil || back != s {
			t.Errorf("severity %d: %q gave %v", s, text, back)
		}
	}
	var s Severity
	if err := s.UnmarshalText([]byte("dire")); err == nil || !strings.Contains(err.Error(), "dire") {
		t.Errorf("an unknown label: %v", err)
	}
	if got := Severity(99).String(); got != "unknown" {
		t.Errorf("severity 99 is %q", got)
	}
}

// TestResultPasses: only a made appraisal with a policy and without a failure is a pass.
func TestResultPasses(t *testing.T) {
	good := Result{Appraised: true, Policies: []PolicyRef{{Name: "p"}}}
	if !good.Passed() {
		t.Fatal("a good result does not pass")
	}
	for name, bad := range map[string]Result{
		"zero value":    {},
		"not appraised": {Policies: good.Policies},
		"no policy":     {Appraised: true},
		"failure":       {Appraised: true, Policies: good.Policies, Failures: []Failure{Fail(Violation, "")}},
		"suppressed":    {Appraised: true, Policies: good.Policies, Suppressed: 1},
	} {
		if bad.Passed() {
			t.Errorf("%s passes", name)
		}
	}
}

func TestResultIsBounded(t *testing.T) {
	var r Result
	for range MaxFailures + 7 {
		r.Add(Fail(Violation, "x"))
	}
	if len(r.Failures) != MaxFailures || r.Suppressed != 7 {
		t.Errorf("%d failures kept, %d suppressed", len(r.Failures), r.Suppressed)
	}
}

// Whoever makes many failures of one kind does not hide another kind behind them, in whatever order they come.
func TestResultLosesNoKindOfFailure(t *testing.T) {
	var r Result
	r.Add(Fail(WeakBank, "first"))
	for i := range 3 * MaxFailures {
		r.Add(Fail(FileNotInPolicy, fmt.Sprint(i)))
	}
	for range 2 {
		for _, info := range Infos() {
			r.Add(Fail(info.ID, "late"))
		}
	}
	if len(r.Failures) != MaxFailures || r.Suppressed != 1+3*MaxFailures+2*len(Infos())-MaxFailures {
		t.Errorf("%d failures kept, %d suppressed", len(r.Failures), r.Suppressed)
	}
	for _, info := range Infos() {
		if !r.Has(info.ID) {
			t.Errorf("%s is lost", info.ID)
		}
	}
	if r.Failures[0].Detail != "first" || r.Failures[1].Detail != "0" {
		t.Errorf("the first of a kind gave way: %+v", r.Failures[:2])
	}
}

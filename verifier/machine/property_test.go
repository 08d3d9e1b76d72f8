package machine

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/verifier/boxtest"
)

// Whatever happens, in whatever order: a quote-backed Failed is left only by a new boot whose evidence passes, by policies under which all
// passes, and by a person's reattest; and nothing is Trusted without a round that was accepted under the policies of now, or stored
// evidence of this boot that passes them.
func TestNoSequenceOfEventsIsMistakenForTrust(t *testing.T) {
	base, wide := boxtest.Document(t, "base", "/usr/bin/a"), boxtest.Document(t, "wide", "/usr/bin/a", "/usr/bin/b")
	sets := [][]*policy.Document{nil, {base}, {wide}, {base, wide}, {wide, boxtest.PCRDocument(t, "firmware", 12, boxtest.New(t).PCRs[12])}}
	allFaults := []string{"", "", "", "stale-nonce", "other-ak", "extra-pcr", "missing-pcr", "other-bank", "relabel", "pcr-value", "unbound-key",
		"no-key", "clock-back", "resets-back", "shorter", "without-last", "reorder", "hide", "false-hash", "garbage-list", "no-list", "no-log",
		"other-log", "changed-log", "from-zero", "from-one", "late", "ghost"}
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(t, base)
		saved := w.box.Snapshot()
		for i := range rapid.IntRange(1, 40).Draw(r, "events") {
			before, boot := w.state, w.box.Clock.ResetCount<<16|w.box.Clock.RestartCount
			event := rapid.SampledFrom([]string{"round", "round", "round", "round", "silence", "malformed", "run", "machine", "act", "policies", "wait", "wait", "cordon"}).Draw(r, "event")
			what := ""
			switch event {
			case "round":
				what = rapid.SampledFrom(allFaults).Draw(r, "fault")
				if request, ok := w.ask(); ok {
					w.step(Answered{Now: w.now, Request: request, Answer: Answer(w.box.Answer(boxtest.Ask(request), boxtest.Faults{what: "/usr/bin/a"}))})
				}
			case "silence":
				w.step(Unanswered{Now: w.now, Reason: "no answer"})
			case "malformed":
				w.step(Answered{Now: w.now, Malformed: "status 404"})
			case "run":
				what = rapid.SampledFrom([]string{"/usr/bin/a", "/usr/bin/b", "/usr/bin/c"}).Draw(r, "path")
				w.box.Run(what, "")
			case "machine":
				what = rapid.SampledFrom([]string{"reset", "power", "restart", "suspend", "kexec", "key", "save", "load"}).Draw(r, "what")
				saved = disturb(w, saved, what)
			case "act":
				act := rapid.SampledFrom([]Act{Pause, Resume, Reattest, ""}).Draw(r, "act")
				what = string(act)
				w.step(Asked{Now: w.now, Act: act})
			case "cordon":
				on := rapid.Bool().Draw(r, "on")
				what = fmt.Sprint(on)
				w.step(Cordoned{Now: w.now, Since: w.now.Add(-time.Duration(rapid.IntRange(-600, 3600).Draw(r, "ago")) * time.Second), On: on})
			case "policies":
				set := rapid.IntRange(0, len(sets)-1).Draw(r, "set")
				what = fmt.Sprint(set)
				w.change(sets[set]...)
			case "wait":
				w.pass(time.Duration(rapid.IntRange(1, 600).Draw(r, "seconds")) * time.Second)
			}
			r.Logf("%d %s %s boot %x: %s %v", i, event, what, boot, w.verdict(), ids(w.state.Failures))
			checkStep(r, before, w, event)
		}
	})
}

func disturb(w *world, saved *boxtest.Box, what string) *boxtest.Box {
	switch what {
	case "reset":
		w.box.Reset()
	case "power":
		w.box.PowerCut()
	case "restart":
		w.box.Restart()
	case "suspend":
		w.box.Suspend()
	case "kexec":
		w.box.Kexec(1)
	case "key":
		w.box.Key += "x"
	case "save":
		return w.box.Snapshot()
	case "load":
		w.box = saved.Snapshot()
	}
	return saved
}

func checkStep(r *rapid.T, before State, w *world, event string) {
	now := w.state
	heard := now.LastAccepted
	if heard.IsZero() {
		heard = now.Enrolled
	}
	if read := w.verdict(); w.now.Sub(heard) > muteLimit && read != attest.Stale && read != attest.Failed && read != attest.Paused {
		r.Fatalf("%s after %v of silence", read, w.now.Sub(heard))
	}
	if before.FailedByQuote() && !now.FailedByQuote() {
		accepted := now.Accepted > before.Accepted && now.LastAccepted.Equal(w.now)
		newBoot := accepted && now.Boot != before.Boot
		judged := accepted && (before.Reattest || before.Rejudge)
		if !newBoot && !judged && event != "policies" {
			r.Fatalf("a quote-backed Failed ended by %s: %v", event, before.Failures)
		}
		if !before.Reattest && now.Verdict != attest.Trusted {
			r.Fatalf("a quote-backed Failed became %s by %s", now.Verdict, event)
		}
		if event == "policies" && len(lasting(before.Failures)) > 0 {
			r.Fatalf("new policies explained %v", before.Failures)
		}
	}
	if now.Verdict != attest.Trusted {
		return
	}
	var refs []attest.PolicyRef
	for _, d := range w.who.Policies {
		refs = append(refs, d.Ref())
	}
	if len(refs) == 0 || !slices.Equal(now.Policies, refs) {
		r.Fatalf("Trusted by %v, while %v apply", now.Policies, refs)
	}
	if now.Boot == "" || now.Accepted == 0 || len(now.Failures) > 0 || now.QuoteBacked {
		r.Fatalf("Trusted by nothing: boot %q, %d accepted, %v", now.Boot, now.Accepted, now.Failures)
	}
}

// What the machine's own list holds decides in the end: after any history, a person's reattest and one honest round tell the truth.
func TestReattestTellsTheTruth(t *testing.T) {
	base := boxtest.Document(t, "base", "/usr/bin/a")
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(t, base)
		bad := false
		saved := w.box.Snapshot()
		for range rapid.IntRange(0, 15).Draw(r, "events") {
			switch event := rapid.SampledFrom([]string{"round", "fault", "good", "bad", "reset", "suspend", "restart", "save", "load"}).Draw(r, "event"); event {
			case "round":
				w.round(nil)
			case "fault":
				w.round(boxtest.Faults{rapid.SampledFrom([]string{"shorter", "ghost", "hide", "no-list", "clock-back", "other-ak"}).Draw(r, "fault"): "/usr/bin/a"})
			case "good":
				w.box.Run("/usr/bin/a", "")
			case "bad":
				w.box.Run("/usr/bin/b", "")
			default:
				saved = disturb(w, saved, event)
			}
		}
		for _, line := range w.box.List {
			bad = bad || strings.HasSuffix(line, "/usr/bin/b\n")
		}
		w.step(Asked{Now: w.now, Act: Reattest})
		w.round(nil)
		want := attest.Trusted
		if bad {
			want = attest.Failed
		}
		if w.verdict() != want {
			r.Fatalf("%s, want %s: %v", w.verdict(), want, w.state.Failures)
		}
	})
}

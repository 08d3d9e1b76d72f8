package lab

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay/stage"
	"github.com/assay-project/assay/lab"
)

// transcript is what must happen, written by hand: every change of the verdict with its cause, and nothing between them.
const transcript = `
enrol                   -> Pending (enrol)
                        Pending -> Trusted (round)
agent killed            
verifier killed         
network cut and back    Trusted -> Stale (round)
                        Stale -> Trusted (round)
tamper                  Trusted -> Failed (round) FileDigestMismatch /usr/bin/nightly-backup
power cut               Failed -> Trusted (reboot)
power cut               
power cut               
tamper                  Trusted -> Failed (round) FileDigestMismatch /usr/bin/nightly-backup
agent killed            
reboot                  Failed -> Trusted (reboot)
reboot                  
`

// TestTranscript does to one machine and its verifier everything that may befall them, and compares what was said of it.
func TestTranscript(t *testing.T) {
	s := set(t)
	var told strings.Builder
	seen := 0
	tell := func(act string) {
		results, err := s.Client.Results(t.Context(), s.Agent)
		if err != nil {
			t.Fatal(err)
		}
		label := act
		if len(results) == seen {
			fmt.Fprintf(&told, "%-24s\n", act)
		}
		for _, r := range results[seen:] {
			fmt.Fprintf(&told, "%-23s %s\n", label, change(r))
			label = ""
		}
		seen = len(results)
	}

	enrol(t, s)
	tell("enrol")

	in(t, s, "kill -9 $(pidof assay-agent)")
	rounds(t, s, 2)
	tell("agent killed")

	killVerifier(t, s)
	tell("verifier killed")

	cutNetwork(t, s)
	tell("network cut and back")

	tamper(t, s, "one")
	tell("tamper")

	restore(t, s)
	for _, moment := range []time.Duration{0, 900 * time.Millisecond, 4500 * time.Millisecond} {
		powerCut(t, s, moment)
		tell("power cut")
	}

	tamper(t, s, "two")
	tell("tamper")

	in(t, s, "kill -9 $(pidof assay-agent)")
	rounds(t, s, 2)
	tell("agent killed")

	restore(t, s)
	reboot(t, s)
	tell("reboot")
	reboot(t, s)
	tell("reboot")

	if diff := cmp.Diff(strings.TrimLeft(transcript, "\n"), told.String()); diff != "" {
		t.Errorf("the transcript is another (-want +got):\n%s", diff)
	}
}

// change is a line of the transcript. A Failed that gets further reasons is no change of the verdict, so every line has another word on each side.
func change(r api.Transition) string {
	text := fmt.Sprintf("%s -> %s (%s)", r.From, r.To, r.Cause)
	if r.From == "" {
		text = fmt.Sprintf("-> %s (%s)", r.To, r.Cause)
	}
	for _, f := range r.Failures {
		text += fmt.Sprintf(" %s %s", f.ID, f.Path)
	}
	return text
}

// killVerifier ends the server in the middle of a round, again and again at other moments, and lets it go on.
func killVerifier(t *testing.T, s *stage.Stage) {
	t.Helper()
	for _, moment := range []time.Duration{0, 300 * time.Millisecond, 700 * time.Millisecond} {
		rounds(t, s, 1)
		time.Sleep(interval - 200*time.Millisecond + moment) // the next round begins about one interval after the last answer
		if err := s.KillServer(); err != nil {
			t.Fatal(err)
		}
		if err := s.StartServer(t.Context()); err != nil {
			t.Fatal(err)
		}
		rounds(t, s, 2)
	}
}

func cutNetwork(t *testing.T, s *stage.Stage) {
	t.Helper()
	if err := s.Machine.SetLink(t.Context(), lab.LinkDown); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Await(t.Context(), attest.Stale, 4*time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := s.Machine.SetLink(t.Context(), lab.LinkUp); err != nil {
		t.Fatal(err)
	}
	await(t, s, attest.Trusted)
}

func tamper(t *testing.T, s *stage.Stage, what string) {
	t.Helper()
	write(t, s, "#!/bin/sh\necho backup done; echo "+what+"\n")
	in(t, s, program)
	await(t, s, attest.Failed)
}

func restore(t *testing.T, s *stage.Stage) {
	t.Helper()
	write(t, s, original)
	in(t, s, program+" && sync")
	if node := rounds(t, s, 2); node.Verdict != attest.Failed {
		t.Errorf("a restored file makes the machine %s", node.Verdict)
	}
}

func write(t *testing.T, s *stage.Stage, content string) {
	t.Helper()
	if err := s.Machine.WriteFile(t.Context(), program, 0o755, []byte(content)); err != nil {
		t.Fatal(err)
	}
}

func reboot(t *testing.T, s *stage.Stage) {
	t.Helper()
	again(t, s, s.Machine.Reboot)
}

// powerCut takes the power away some time after a quote was accepted.
func powerCut(t *testing.T, s *stage.Stage, moment time.Duration) {
	t.Helper()
	rounds(t, s, 1)
	time.Sleep(moment)
	again(t, s, s.Machine.PowerCut)
}

// again has the machine start again, and sees that the server knows of it and trusts the new boot.
func again(t *testing.T, s *stage.Stage, start func(context.Context) error) {
	t.Helper()
	before, err := s.Client.Node(t.Context(), s.Agent)
	if err != nil {
		t.Fatal(err)
	}
	if err := start(t.Context()); err != nil {
		t.Fatal(err)
	}
	node := rounds(t, s, 2)
	if node.Boot == before.Boot || node.Verdict != attest.Trusted {
		t.Fatalf("the next boot is %s (before %s), %s: %s", node.Boot, before.Boot, node.Verdict, stage.Reasons(node))
	}
}

package machine

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/verifier/boxtest"
)

var update = flag.Bool("update", false, "write testdata anew")

// The transcripts in testdata tell stories: a line that begins with "> " is something that happens, the lines below it are what the
// machine makes of it. go test ./verifier -run Transcripts -update writes the answers anew; read the difference.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := replayTranscript(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("%s differs (run with -update and read the difference):\n%s", file, got)
			}
		})
	}
}

// replayTranscript carries out the lines that begin with "> ", keeps comments and empty lines, and writes the answers anew.
func replayTranscript(t *testing.T, text string) string {
	t.Helper()
	w := newWorld(t)
	s := &script{world: w, documents: map[string]*policy.Document{}}
	var out strings.Builder
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		command, is := strings.CutPrefix(line, "> ")
		switch {
		case is:
			out.WriteString(line + "\n")
			words := strings.Fields(command)
			out.WriteString(s.carryOut(words[0], words[1:]))
		case line == "" || strings.HasPrefix(line, "#"):
			out.WriteString(line + "\n")
		}
	}
	return out.String()
}

// script is a world that is told what happens.
type script struct {
	*world
	documents map[string]*policy.Document
	saved     *boxtest.Box
	boots     []string // in the order in which they were seen: their names differ from run to run, as the keys do
}

func (s *script) bootNumber(boot string) int {
	if boot == "" {
		return 0
	}
	if !slices.Contains(s.boots, boot) {
		s.boots = append(s.boots, boot)
	}
	return 1 + slices.Index(s.boots, boot)
}

// carryOut does what a command says and returns what the machine made of it, "" if the machine did not see it.
func (s *script) carryOut(command string, args []string) string {
	switch command {
	case "document": // NAME PATH[=CHANGE]...: the name of a document and what it allows beside the boot's files
		s.documents[args[0]] = boxtest.Document(s.t, args[0], args[1:]...)
		return ""
	case "pcr-document": // NAME PCR: allows the present value
		var index int
		if _, err := fmt.Sscan(args[1], &index); err != nil {
			s.t.Fatal(err)
		}
		s.documents[args[0]] = boxtest.PCRDocument(s.t, args[0], index, s.box.PCRs[index])
		return ""
	case "wait":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			s.t.Fatal(err)
		}
		s.pass(d)
		return "  " + string(s.verdict()) + "\n"
	case "assign":
		return s.stepped(func() { s.change(s.named(args)...) })
	case "round": // FAULT[=VALUE]...
		return s.stepped(func() { s.scriptedRound(args) })
	case "silence":
		return s.stepped(func() {
			if _, ok := s.ask(); ok {
				s.step(Unanswered{Now: s.now, Reason: "no answer"})
			}
		})
	case "malformed":
		return s.stepped(func() {
			r, _ := s.ask()
			s.step(Answered{Now: s.now, Request: r, Malformed: "status 404"})
		})
	case "pause", "resume", "reattest":
		return s.stepped(func() { s.step(Asked{Now: s.now, Act: Act(command)}) })
	case "cordon": // [AGO]: told that long after it happened
		var ago time.Duration
		if len(args) > 0 {
			var err error
			if ago, err = time.ParseDuration(args[0]); err != nil {
				s.t.Fatal(err)
			}
		}
		return s.stepped(func() { s.step(Cordoned{Now: s.now, Since: s.now.Add(-ago), On: true}) })
	case "uncordon":
		return s.stepped(func() { s.step(Cordoned{Now: s.now}) })
	case "moved":
		return s.stepped(func() { s.step(Moved{Now: s.now}) })
	case "reimage": // [OFFSET]: with an AK of the owner's hierarchy, whose counters are shown with an offset
		s.box.Reimage()
		if len(args) > 0 {
			s.box.Owned = true
			if _, err := fmt.Sscan(args[0], &s.box.Offset); err != nil {
				s.t.Fatal(err)
			}
		}
		return s.stepped(func() { s.reimage() })
	}
	s.onMachine(command, args)
	return ""
}

// onMachine is what the watched machine does.
func (s *script) onMachine(command string, args []string) {
	switch command {
	case "run": // PATH[=CHANGE]
		path, change, _ := strings.Cut(args[0], "=")
		s.box.Run(path, change)
	case "reboot":
		s.box.Reset()
	case "power-cut":
		s.box.PowerCut()
	case "tpm-restart":
		s.box.Restart()
	case "suspend":
		s.box.Suspend()
	case "kexec":
		s.box.Kexec(len(args))
	case "new-key":
		s.box.Key = args[0] + "\n"
	case "snapshot":
		s.saved = s.box.Snapshot()
	case "roll-back":
		s.box = s.saved.Snapshot()
	case "clear-tpm":
		s.box.Clock = quote.Clock{Safe: true}
	case "false-boot-aggregate":
		s.box.List, s.box.PCRs[imaPCR] = nil, pcr.Initial(attest.SHA256, imaPCR)
		s.box.Measure("boot_aggregate", boxtest.ContentOf("another firmware", ""))
		s.box.Run("/usr/bin/assay-agent", "")
	default:
		s.t.Fatalf("unknown command %q", command)
	}
}

func (s *script) named(names []string) []*policy.Document {
	var all []*policy.Document
	for _, name := range names {
		if s.documents[name] == nil {
			s.t.Fatalf("no document %q", name)
		}
		all = append(all, s.documents[name])
	}
	return all
}

func (s *script) scriptedRound(args []string) {
	f := boxtest.Faults{}
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		f[name] = value
	}
	if r, ok := s.ask(); ok {
		s.step(Answered{Now: s.now, Request: r, Answer: Answer(s.box.Answer(boxtest.Ask(r), f))})
	}
}

// stepped tells what a step did: the verdict that people see, where the machine stands, and what it wants done.
func (s *script) stepped(do func()) string {
	s.actions = nil
	do()
	st := s.state
	var out strings.Builder
	fmt.Fprintf(&out, "  %s at %s: boot %d position %d accepted %d refused %d", s.verdict(), s.now.Format("15:04:05"), s.bootNumber(st.Boot), st.IMA.Position, st.Accepted, st.Refused)
	if st.IMA.Held != nil {
		fmt.Fprintf(&out, " pending %d", st.IMA.Held.Count)
	}
	if st.FailedByQuote() {
		out.WriteString(" quote-backed")
	}
	if st.whole() {
		out.WriteString(" asks-from-start")
	}
	fmt.Fprintf(&out, " keylime %d\n", st.KeylimeState(s.now, s.who.Interval))
	for _, f := range st.Failures {
		fmt.Fprintf(&out, "  - %s %s\n", f.ID, strings.TrimSpace(f.Path+" "+f.Policy))
	}
	for _, action := range s.actions {
		out.WriteString(actionText(action))
	}
	return out.String()
}

func actionText(action Action) string {
	switch a := action.(type) {
	case Collect:
		return fmt.Sprintf("  collect from %d, full %t\n", a.Request.Offset, a.Request.Full)
	case Schedule:
		return fmt.Sprintf("  next round in %v\n", a.After)
	case Keep:
		text := "  keep"
		if a.Quote != nil {
			text += " quote"
		}
		if a.Chunk != nil {
			text += fmt.Sprintf(" entries %d+%d", a.Chunk.First, a.Chunk.Count)
		}
		if a.BootLog != nil {
			text += " boot-log"
		}
		return text + "\n"
	case Record:
		t := a.Transition
		var names []string
		for _, p := range t.Policies {
			names = append(names, p.Name)
		}
		backed := ""
		if !t.Quote.IsZero() {
			backed = ", with its quote"
		}
		if t.Detail != "" {
			backed += ", with detail"
		}
		return fmt.Sprintf("  record %d: %s -> %s because of %s, by %v%s\n", t.Seq, t.From, t.To, t.Cause, names, backed)
	}
	return fmt.Sprintf("  unknown action %T\n", action)
}

package reaction_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/reaction"
	"github.com/assay-project/assay/reaction/reactiontest"
)

var update = flag.Bool("update", false, "write the transcripts anew")

// story is a book with the verdicts behind it, told line by line.
type story struct {
	t     testing.TB
	book  *reactiontest.Book
	wants map[attest.AgentID]*reaction.Want
	// claims are the numbers that each operator's claims of a row got; the key is both.
	claims map[string][]uint64
	now    time.Time
}

func newStory(t testing.TB) *story {
	return &story{
		t: t, wants: map[attest.AgentID]*reaction.Want{}, claims: map[string][]uint64{}, now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC),
		book: &reactiontest.Book{Identities: map[attest.AgentID]api.KubernetesNode{"n1": {Name: "worker-1", UID: "u1"}}},
	}
}

func (s *story) current(node attest.AgentID) (*reaction.Want, error) { return s.wants[node], nil }

// tx runs one transaction: an error takes everything back.
func (s *story) tx(do func(b *reactiontest.Book) error) error {
	trial := s.book.Copy()
	err := do(trial)
	if err == nil {
		s.book = trial
	}
	return err
}

func failed(owner string, budget int) *reaction.Want {
	return &reaction.Want{Cause: api.CauseFailure, Kinds: []api.ReactionKind{api.ReactTaint}, Owner: owner, Budget: budget, Seq: 2}
}

func silent(owner string, budget int) *reaction.Want {
	return &reaction.Want{Cause: api.CauseSilence, Kinds: []api.ReactionKind{api.ReactLabel}, Owner: owner, Budget: budget, Seq: 2}
}

// tell carries out one line: what happens, to which node or row, by whom.
func (s *story) tell(line string) error {
	f := append(strings.Fields(line), "", "", "")
	var budget int
	var id uint64
	_, _ = fmt.Sscan(f[2], &budget)
	_, _ = fmt.Sscan(f[1], &id)
	node, by := attest.AgentID(f[1]), reaction.By{ID: id, Name: f[2], Now: s.now}
	set := func(want *reaction.Want) error {
		s.wants[node] = want
		return s.tx(func(b *reactiontest.Book) error { return reaction.Settle(b, node, want, s.now) })
	}
	switch f[0] {
	case "fails":
		return set(failed("NodePolicy/p", budget))
	case "fails-again": // with other kinds of reactions assigned
		want := failed("NodePolicy/p", budget)
		want.Kinds = append(want.Kinds, api.ReactLabel)
		return set(want)
	case "moves": // to another owner
		return set(failed("NodePolicy/q", budget))
	case "quiet":
		return set(silent("NodePolicy/p", budget))
	case "passes":
		return set(nil)
	case "notice":
		return s.tx(func(b *reactiontest.Book) error { return reaction.Notice(b, node, *s.wants[node], s.now) })
	case "withdraw":
		return s.tx(func(b *reactiontest.Book) error { return reaction.Withdraw(b, "3 of 5 nodes are silent", s.now) })
	case "turned": // the verdict moved on in the store, and nobody settled yet
		s.wants[node] = nil
	case "rebound":
		name := s.book.Identities[node].Name + "x"
		s.book.Identities[node] = api.KubernetesNode{Name: name, UID: name}
	case "claim":
		return s.tx(func(b *reactiontest.Book) error {
			row, err := reaction.Claim(b, by, s.current)
			if err == nil {
				s.claims[f[1]+f[2]] = append(s.claims[f[1]+f[2]], row.Claim)
			}
			return err
		})
	case "done", "broke", "late": // late: by the operator's instance that claimed before
		claims := append([]uint64{0, 0}, s.claims[f[1]+f[2]]...)
		report := api.ReactionReport{Claim: claims[len(claims)-1], Done: f[0] != "broke", Detail: f[0]}
		if f[0] == "late" {
			report.Claim = claims[len(claims)-2]
		}
		return s.tx(func(b *reactiontest.Book) error { _, err := reaction.Report(b, by, report, s.current); return err })
	case "suspend", "resume":
		return s.tx(func(b *reactiontest.Book) error {
			return reaction.Suspend(b, api.Suspension{Suspended: f[0] == "suspend", By: "eve", Reason: "maintenance", At: s.now})
		})
	case "later":
		pause, err := time.ParseDuration(f[1])
		s.now = s.now.Add(pause)
		return err
	default:
		s.t.Fatalf("no such line: %s", line)
	}
	return nil
}

// rows prints what is in the book.
func (s *story) rows() string {
	rows, err := s.book.Rows(reaction.Query{})
	if err != nil {
		s.t.Fatal(err)
	}
	var out strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&out, "    %d %s %s %v %s", r.ID, r.Node, r.Cause, r.Kinds, r.State)
		if r.Lifting {
			out.WriteString(" (to lift)")
		}
		if r.ClaimedBy != "" {
			fmt.Fprintf(&out, " by %s", r.ClaimedBy)
		}
		if r.Identity != nil {
			fmt.Fprintf(&out, " on %s", r.Identity.Name)
		}
		if r.Detail != "" {
			fmt.Fprintf(&out, ": %s", r.Detail)
		}
		out.WriteString("\n")
	}
	return out.String()
}

// TestTranscripts tells stories: a line that begins without a blank happens, the indented ones below it are what came of it.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d transcripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s, before := newStory(t), ""
			var got strings.Builder
			for line := range strings.Lines(string(want)) {
				if strings.HasPrefix(line, " ") {
					continue
				}
				got.WriteString(line)
				if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
					continue
				}
				if err := s.tell(line); err != nil {
					fmt.Fprintf(&got, "    refused: %v\n", err)
				}
				if after := s.rows(); after != before {
					got.WriteString(after)
					before = after
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" && !*update {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestClaimsOfRowsThatAreNotThere(t *testing.T) {
	s := newStory(t)
	for _, id := range []uint64{0, 1, 1 << 63} {
		if _, err := reaction.Claim(s.book, reaction.By{ID: id, Name: "op", Now: s.now}, s.current); !errors.Is(err, reaction.ErrNotFound) {
			t.Errorf("claim of %d: %v", id, err)
		}
		if _, err := reaction.Report(s.book, reaction.By{ID: id, Name: "op", Now: s.now}, api.ReactionReport{}, s.current); !errors.Is(err, reaction.ErrNotFound) {
			t.Errorf("report of %d: %v", id, err)
		}
	}
}

// broken is a book whose every use fails after some.
type broken struct {
	*reactiontest.Book
	left int
}

var errBroken = errors.New("the disk is gone")

func (b *broken) use() error {
	if b.left--; b.left < 0 {
		return errBroken
	}
	return nil
}

func (b *broken) Rows(q reaction.Query) ([]reaction.Row, error) {
	if err := b.use(); err != nil {
		return nil, err
	}
	return b.Book.Rows(q)
}

func (b *broken) Put(r reaction.Row) (reaction.Row, error) {
	if err := b.use(); err != nil {
		return r, err
	}
	return b.Book.Put(r)
}

func (b *broken) Identity(n attest.AgentID) (*api.KubernetesNode, error) {
	if err := b.use(); err != nil {
		return nil, err
	}
	return b.Book.Identity(n)
}

func (b *broken) Suspension() (api.Suspension, error) {
	if err := b.use(); err != nil {
		return api.Suspension{}, err
	}
	return b.Book.Suspension()
}

func (b *broken) Suspend(s api.Suspension) error {
	if err := b.use(); err != nil {
		return err
	}
	return b.Book.Suspend(s)
}

// Whatever use of the store fails, the caller hears of it, so that its transaction goes back.
func TestEveryFailureOfTheStoreIsTold(t *testing.T) {
	s := newStory(t)
	for _, line := range []string{"fails n1 1", "fails n2 1", "quiet n3 1", "notice n3", "claim 1 op"} {
		if err := s.tell(line); err != nil {
			t.Fatal(err)
		}
	}
	lifting := newStory(t)
	for _, line := range []string{"fails n1 1", "claim 1 op", "passes n1", "claim 1 op", "fails n1 1"} {
		if err := lifting.tell(line); err != nil {
			t.Fatal(err)
		}
	}
	by := reaction.By{ID: 1, Name: "op", Now: s.now}
	for name, try := range map[string]struct {
		s  *story
		do func(b reaction.Book) error
	}{
		"open":     {s, func(b reaction.Book) error { return reaction.Settle(b, "n9", failed("p", 1), s.now) }},
		"drop":     {s, func(b reaction.Book) error { return reaction.Settle(b, "n2", nil, s.now) }},
		"notice":   {s, func(b reaction.Book) error { return reaction.Notice(b, "n9", *silent("p", 1), s.now) }},
		"withdraw": {s, func(b reaction.Book) error { return reaction.Withdraw(b, "", s.now) }},
		"suspend":  {s, func(b reaction.Book) error { return reaction.Suspend(b, api.Suspension{Suspended: true}) }},
		"resume":   {s, func(b reaction.Book) error { return reaction.Suspend(b, api.Suspension{}) }},
		"claim": {s, func(b reaction.Book) error {
			_, err := reaction.Claim(b, reaction.By{ID: 1, Name: "op", Now: s.now.Add(time.Hour)}, s.current)
			return err
		}},
		"report": {s, func(b reaction.Book) error {
			_, err := reaction.Report(b, by, api.ReactionReport{Claim: 1, Done: true}, s.current)
			return err
		}},
		"lifted": {lifting, func(b reaction.Book) error {
			_, err := reaction.Report(b, by, api.ReactionReport{Claim: lifting.claims["1op"][1], Done: true}, lifting.current)
			return err
		}},
	} {
		uses := 0
		for ; ; uses++ {
			err := try.do(&broken{Book: try.s.book.Copy(), left: uses})
			if err == nil {
				break
			}
			if !errors.Is(err, errBroken) || uses > 100 {
				t.Fatalf("%s, after %d uses of the store: %v", name, uses, err)
			}
		}
		if uses == 0 {
			t.Errorf("%s does not use the store", name)
		}
	}
}

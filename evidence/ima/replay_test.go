package ima

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
)

// boot makes a list of n entries with boot_aggregate first and a violation as its fourth.
func boot(n int) []measurement {
	all := []measurement{{template: "ima-ng", prefix: "sha256:", digest: fill(32, 0xb0), name: "boot_aggregate"}}
	for i := 1; i < n; i++ {
		m := measurement{template: "ima-ng", prefix: "sha256:", digest: fill(32, byte(i)), name: fmt.Sprintf("/usr/bin/%d", i)}
		if i == 3 {
			m.violation, m.digest = true, fill(32, 0)
		}
		all = append(all, m)
	}
	return all
}

// extended returns what the kernel extends into bank h.
func (m measurement) extended(h attest.Hash, f form) []byte {
	out := make([]byte, h.Size())
	switch {
	case m.violation && f == padded:
		for i := range 20 {
			out[i] = 0xff
		}
	case m.violation:
		for i := range out {
			out[i] = 0xff
		}
	case f == native:
		return h.Sum(m.hashed()).Bytes()
	default:
		copy(out, attest.SHA1.Sum(m.hashed()).Bytes())
	}
	return out
}

// equateDigests lets cmp compare digests, which are comparable.
func equateDigests() cmp.Option { return cmpopts.EquateComparable(attest.Digest{}) }

// extended returns PCR 10, or another, after all measurements.
func extended(bank attest.Hash, f form, index int, all ...measurement) attest.Digest {
	value := pcr.Initial(bank, index)
	for _, m := range all {
		if m.register() == index {
			value = pcr.Extend(value, m.extended(bank, f))
		}
	}
	return value
}

// round is one piece of evidence: a list from a position on, and a quote that covers some of a boot's entries.
type round struct {
	list   []byte
	covers []measurement
	first  uint64
	from   State
}

func (r round) replay(t *testing.T) (Replayed, []attest.Failure) {
	t.Helper()
	list, err := ParseASCII(r.list)
	if err != nil {
		t.Fatal(err)
	}
	v := verified(t, pcr.Values{Bank: attest.SHA256, Digests: map[int]attest.Digest{10: extended(attest.SHA256, native, 10, r.covers...)}})
	return list.Replay(v, Request{PCR: 10, First: r.first, From: r.from})
}

func ids(failures []attest.Failure) []attest.FailureID {
	var all []attest.FailureID
	for _, f := range failures {
		all = append(all, f.ID)
	}
	return all
}

// stateAfter replays a boot's first entries, of which the list shows some more.
func stateAfter(t *testing.T, all []measurement, covered, shown int) State {
	t.Helper()
	replayed, failures := round{list: asciiOf(attest.SHA1, all[:shown]...), covers: all[:covered]}.replay(t)
	if failures != nil {
		t.Fatal(failures)
	}
	return replayed.State()
}

// Each row has one fault; without it, the same evidence passes.
func TestReplayRefuses(t *testing.T) {
	all := boot(8)
	sha1 := attest.SHA1
	text := func(m ...measurement) []byte { return asciiOf(sha1, m...) }
	with := func(i int, change func(*measurement)) []measurement {
		changed := append([]measurement{}, all...)
		change(&changed[i])
		return changed
	}
	renamed := with(5, func(m *measurement) { m.name = "/usr/bin/sh" })
	redigested := with(5, func(m *measurement) { m.digest = fill(32, 0xee) })
	hidden := with(5, func(m *measurement) { m.violation = true })
	shown := with(3, func(m *measurement) { m.violation = false })
	other := with(0, func(m *measurement) { m.digest = fill(32, 0xb1) })
	swapped := append(append([]measurement{}, all[:4]...), all[5], all[4], all[6], all[7])
	elsewhere := with(5, func(m *measurement) { m.pcr = 11 })
	half, ahead := stateAfter(t, all, 5, 5), stateAfter(t, all, 5, 7)
	falsified := strings.Replace(string(text(all...)), fmt.Sprintf("%x", all[5].column(sha1)), strings.Repeat("5a", 20), 1)
	stale := strings.Replace(string(text(renamed...)), fmt.Sprintf("%x", renamed[5].column(sha1)), fmt.Sprintf("%x", all[5].column(sha1)), 1)

	for name, row := range map[string]struct {
		bad, good round
		want      []attest.FailureID
	}{
		"reordered":          {round{list: text(swapped...), covers: all}, round{list: text(all...), covers: all}, []attest.FailureID{attest.ListPcrMismatch}},
		"truncated":          {round{list: text(all[:7]...), covers: all}, round{list: text(all...), covers: all}, []attest.FailureID{attest.ListPcrMismatch}},
		"first entry gone":   {round{list: text(all[1:]...), covers: all}, round{list: text(all...), covers: all}, []attest.FailureID{attest.ListPcrMismatch}},
		"entry left out":     {round{list: text(append(append([]measurement{}, all[:5]...), all[6:]...)...), covers: all}, round{list: text(all...), covers: all}, []attest.FailureID{attest.ListPcrMismatch}},
		"entry twice":        {round{list: text(append(append([]measurement{}, all[:5]...), all[4:]...)...), covers: all}, round{list: text(all...), covers: all}, []attest.FailureID{attest.ListPcrMismatch}},
		"name changed":       {round{list: text(renamed...), covers: all}, round{list: text(all...), covers: all}, []attest.FailureID{attest.ListPcrMismatch}},
		"digest changed":     {round{list: text(redigested...), covers: all}, round{list: text(all...), covers: all}, []attest.FailureID{attest.ListPcrMismatch}},
		"as a violation":     {round{list: text(hidden...), covers: all}, round{list: text(all...), covers: all}, []attest.FailureID{attest.ListPcrMismatch}},
		"violation hidden":   {round{list: text(shown...), covers: all}, round{list: text(all...), covers: all}, []attest.FailureID{attest.ListPcrMismatch}},
		"as another PCR's":   {round{list: text(elsewhere...), covers: all}, round{list: text(all...), covers: all}, []attest.FailureID{attest.ListPcrMismatch}},
		"of another boot":    {round{list: text(other...), covers: all}, round{list: text(other...), covers: other}, []attest.FailureID{attest.ListPcrMismatch}},
		"another boot's PCR": {round{list: text(all...), covers: other}, round{list: text(all...), covers: all}, []attest.FailureID{attest.ListPcrMismatch}},
		"no list":            {round{covers: all}, round{}, []attest.FailureID{attest.ListPcrMismatch}},
		"false column":       {round{list: []byte(falsified), covers: all}, round{list: text(all...), covers: all}, []attest.FailureID{attest.TemplateHashMismatch}},
		"name changed behind the column": {round{list: []byte(stale), covers: all}, round{list: text(all...), covers: all},
			[]attest.FailureID{attest.TemplateHashMismatch, attest.ListPcrMismatch}},
		"rolled back":            {round{list: text(all[:4]...), covers: all[:4], from: half}, round{list: text(all[:5]...), covers: all[:5], from: half}, []attest.FailureID{attest.ListRolledBack}},
		"rolled back to nothing": {round{from: half}, round{first: 5, covers: all[:5], from: half}, []attest.FailureID{attest.ListRolledBack}},
		"gap":                    {round{list: text(all[6:]...), first: 6, covers: all, from: half}, round{list: text(all[5:]...), first: 5, covers: all, from: half}, []attest.FailureID{attest.ListPcrMismatch}},
		"false position":         {round{list: text(all[6:]...), first: 5, covers: all, from: half}, round{list: text(all[5:]...), first: 5, covers: all, from: half}, []attest.FailureID{attest.ListPcrMismatch}},
		"position out of range":  {round{list: text(all[5:]...), first: 1<<64 - 1, covers: all, from: half}, round{list: text(all[5:]...), first: 5, covers: all, from: half}, []attest.FailureID{attest.ListPcrMismatch}},
		"older quote":            {round{list: text(all[5:]...), first: 5, covers: all[:4], from: half}, round{list: text(all[5:]...), first: 5, covers: all[:6], from: half}, []attest.FailureID{attest.ListPcrMismatch}},
		"held entry changed":     {round{list: text(renamed[5:]...), first: 5, covers: renamed, from: ahead}, round{list: text(all[5:]...), first: 5, covers: all, from: ahead}, []attest.FailureID{attest.HeldEntriesChanged}},
		"held entries gone":      {round{first: 5, covers: all[:5], from: ahead}, round{list: text(all[5:7]...), first: 5, covers: all[:7], from: ahead}, []attest.FailureID{attest.HeldEntriesChanged}},
		"held entries cut":       {round{list: text(all[5:6]...), first: 5, covers: all[:6], from: ahead}, round{list: text(all[5:7]...), first: 5, covers: all[:7], from: ahead}, []attest.FailureID{attest.HeldEntriesChanged}},
		"held, still not quoted": {round{list: text(all[5:7]...), first: 5, covers: all[:6], from: ahead}, round{list: text(all[5:7]...), first: 5, covers: all[:7], from: ahead}, []attest.FailureID{attest.HeldEntriesChanged}},
		"held changed, not replayed": {round{list: text(renamed[5:]...), first: 5, covers: all, from: ahead}, round{list: text(all[5:]...), first: 5, covers: all, from: ahead},
			[]attest.FailureID{attest.HeldEntriesChanged, attest.ListPcrMismatch}},
	} {
		replayed, failures := row.bad.replay(t)
		if diff := cmp.Diff(row.want, ids(failures)); diff != "" {
			t.Errorf("%s: failures (-want +got):\n%s", name, diff)
		}
		reached := row.want[len(row.want)-1] == attest.TemplateHashMismatch || row.want[len(row.want)-1] == attest.HeldEntriesChanged
		if replayed.Valid() != reached {
			t.Errorf("%s: valid %v", name, replayed.Valid())
		}
		if replayed, failures := row.good.replay(t); failures != nil || !replayed.Valid() {
			t.Errorf("%s: without the fault: %v", name, failures)
		}
	}
}

func TestReplayNeedsQuote(t *testing.T) {
	all := boot(3)
	list, err := ParseASCII(asciiOf(attest.SHA1, all...))
	if err != nil {
		t.Fatal(err)
	}
	quoted := func(bank attest.Hash, index int) quote.Verified {
		return verified(t, pcr.Values{Bank: bank, Digests: map[int]attest.Digest{index: extended(bank, native, 10, all...)}})
	}
	old := State{Position: 1, PCR: extended(attest.SHA1, native, 10, all[:1]...)}
	for name, row := range map[string]struct {
		v    quote.Verified
		r    Request
		want attest.FailureID
	}{
		"no quote":     {quote.Verified{}, Request{PCR: 10}, attest.EvidenceUnverified},
		"other PCR":    {quoted(attest.SHA256, 11), Request{PCR: 10}, attest.EvidenceMissing},
		"no such PCR":  {quoted(attest.SHA256, 10), Request{PCR: -1}, attest.EvidenceMissing},
		"bank changed": {quoted(attest.SHA256, 10), Request{PCR: 10, From: old}, attest.BankMismatch},
	} {
		replayed, failures := list.Replay(row.v, row.r)
		if diff := cmp.Diff([]attest.FailureID{row.want}, ids(failures)); diff != "" || replayed.Valid() {
			t.Errorf("%s: valid %v, failures (-want +got):\n%s", name, replayed.Valid(), diff)
		}
	}
	for name, row := range map[string]struct {
		v quote.Verified
		r Request
	}{
		"quoted":    {quoted(attest.SHA256, 10), Request{PCR: 10}},
		"same bank": {quoted(attest.SHA1, 10), Request{PCR: 10, From: old}},
	} {
		if replayed, failures := list.Replay(row.v, row.r); failures != nil || !replayed.Valid() {
			t.Errorf("%s: %v", name, failures)
		}
	}
}

// A failure names the entry, counted from boot.
func TestTemplateHashMismatchNamesEntry(t *testing.T) {
	all := boot(6)
	rest := strings.Replace(string(asciiOf(attest.SHA1, all[4:]...)), fmt.Sprintf("%x", all[5].column(attest.SHA1)), strings.Repeat("5a", 20), 1)
	_, failures := round{list: []byte(rest), first: 4, covers: all, from: stateAfter(t, all, 4, 4)}.replay(t)
	if len(failures) != 1 || failures[0].Entry == nil || *failures[0].Entry != 5 || failures[0].Path != "/usr/bin/5" || failures[0].Seen != strings.Repeat("5a", 20) {
		t.Errorf("failures %+v", failures)
	}
}

// False columns do not flood: a list of them gives at most as many failures as a result holds.
func TestTemplateHashMismatchIsBounded(t *testing.T) {
	line := strings.Replace(good, "/usr/bin/a", "/usr/bin/b", 1)
	_, failures := round{list: []byte(strings.Repeat(line, 1000))}.replay(t)
	if len(failures) != 0 {
		t.Errorf("%d failures of entries that no quote covers", len(failures))
	}
	_, failures = round{list: []byte(strings.Repeat(line, 1000)), covers: boot(1)}.replay(t)
	if len(failures) != attest.MaxFailures+1 {
		t.Errorf("%d failures", len(failures))
	}
}

// What the list shows beyond the quote is pending, and judged in the round that covers it.
func TestPending(t *testing.T) {
	all := boot(8)
	all[6].pcr = 11
	replayed, failures := round{list: asciiOf(attest.SHA1, all...), covers: all[:5]}.replay(t)
	if failures != nil {
		t.Fatal(failures)
	}
	if got, want := len(replayed.Entries()), 5; got != want {
		t.Errorf("%d entries, want %d", got, want)
	}
	var pending []uint64
	for _, e := range replayed.Pending() {
		pending = append(pending, e.Position)
	}
	if diff := cmp.Diff([]uint64{5, 6, 7}, pending); diff != "" {
		t.Errorf("pending (-want +got):\n%s", diff)
	}
	next, failures := round{list: asciiOf(attest.SHA1, all[5:]...), first: 5, covers: all, from: replayed.State()}.replay(t)
	if failures != nil || next.First() != 5 || next.Len() != 3 || len(next.Entries()) != 2 || len(next.Others()) != 1 || len(next.Pending()) != 0 {
		t.Errorf("next round: %v; first %d, %d new, %d own, %d others, %d pending", failures, next.First(), next.Len(), len(next.Entries()), len(next.Others()), len(next.Pending()))
	}
	if diff := cmp.Diff(string(asciiOf(attest.SHA1, all[5:]...)), string(next.ASCII())); diff != "" {
		t.Errorf("text of the new entries (-want +got):\n%s", diff)
	}
	if next.State().Held != nil || next.State().Position != 8 || next.PCR() != 10 {
		t.Errorf("state %+v", next.State())
	}
}

// An agent that answers from an earlier position than it was asked for shows what is proven again.
func TestReplaySkipsProven(t *testing.T) {
	all := boot(8)
	replayed, failures := round{list: asciiOf(attest.SHA1, all[2:]...), first: 2, covers: all, from: stateAfter(t, all, 5, 5)}.replay(t)
	if failures != nil || replayed.First() != 5 {
		t.Fatalf("first %d, %v", replayed.First(), failures)
	}
	var positions []uint64
	for position := range replayed.All() {
		positions = append(positions, position)
	}
	if diff := cmp.Diff([]uint64{5, 6, 7}, positions); diff != "" {
		t.Errorf("positions (-want +got):\n%s", diff)
	}
}

// Except asks about files without a violation and with a SHA-256 digest, and leaves out what is approved and nothing else.
func TestReplayExcept(t *testing.T) {
	sha512 := attest.SHA512.Sum(nil)
	all := append(boot(8),
		measurement{template: "ima-sig", prefix: "sha256:", digest: make([]byte, 32), name: "/signed", tail: []byte{3}},
		measurement{template: "ima-buf", prefix: "sha256:", digest: make([]byte, 32), name: "/buffer"},
		measurement{template: "ima-ng", prefix: "sha512:", digest: sha512.Bytes(), name: "/sha512"},
		measurement{template: "ima-ng", prefix: "sha256:", digest: make([]byte, 32), name: "/violation", violation: true},
		measurement{template: "ima-ng", prefix: "sha256:", digest: make([]byte, 32), name: "/pcr11", pcr: 11},
		measurement{template: "ima-ng", prefix: "sha256:", digest: make([]byte, 32), name: "/last"})
	replayed, failures := round{list: asciiOf(attest.SHA1, all...), covers: all}.replay(t)
	if failures != nil {
		t.Fatal(failures)
	}
	approved := map[string]bool{"/signed": true, "/buffer": true, "/sha512": true, "/violation": true, "/pcr11": true}
	var want, got []string
	for position, e := range replayed.All() {
		if e.Path != "/signed" {
			want = append(want, fmt.Sprint(position, e.Path, e.Digest))
		}
	}
	asked := map[string]bool{}
	approve := func(name, sum []byte) bool {
		asked[string(name)] = true
		return len(sum) == 32 && approved[string(name)]
	}
	for position, e := range replayed.Except(approve) {
		got = append(got, fmt.Sprint(position, e.Path, e.Digest))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if !asked["/last"] || asked["/buffer"] || asked["/sha512"] || asked["/violation"] || asked["/pcr11"] {
		t.Errorf("asked about %v", asked)
	}
	for position := range replayed.Except(func(_, _ []byte) bool { return false }) {
		if position == 2 {
			break // an early end is no fault
		}
	}
}

// Nothing new: the quoted PCR must stand where the last round left it.
func TestReplayNothingNew(t *testing.T) {
	all := boot(5)
	from := stateAfter(t, all, 5, 5)
	replayed, failures := round{first: 5, covers: all, from: from}.replay(t)
	if failures != nil || replayed.Len() != 0 || replayed.Entries() != nil {
		t.Fatalf("%d entries, %v", replayed.Len(), failures)
	}
	if diff := cmp.Diff(from, replayed.State(), equateDigests()); diff != "" {
		t.Errorf("state (-before +after):\n%s", diff)
	}
}

// The forms in which kernels extend a bank, and what a state keeps of them.
func TestForms(t *testing.T) {
	all := boot(8)
	ordinary := append(append([]measurement{}, all[:3]...), all[4:]...)
	violations := []measurement{all[3], all[3]}
	for name, row := range map[string]struct {
		bank   attest.Hash
		form   form
		list   []measurement
		want   string
		padded bool
	}{
		"native":                     {attest.SHA256, native, all, "native", false},
		"padded":                     {attest.SHA256, padded, all, "padded", true},
		"padded ones":                {attest.SHA512, paddedOnes, all, "padded-ones", true},
		"padded without violations":  {attest.SHA384, padded, ordinary, "padded,padded-ones", true},
		"SHA-1 pads nothing":         {attest.SHA1, padded, all, "native", false},
		"only violations":            {attest.SHA256, native, violations, "native,padded-ones", false},
		"only short violations":      {attest.SHA256, padded, violations, "padded", true},
		"nothing":                    {attest.SHA256, padded, nil, "native,padded,padded-ones", false},
		"only entries of other PCRs": {attest.SHA256, padded, []measurement{{pcr: 11, template: "ima-ng", prefix: "sha256:", digest: fill(32, 1)}}, "native,padded,padded-ones", false},
	} {
		list, err := ParseASCII(asciiOf(attest.SHA1, row.list...))
		if err != nil {
			t.Fatal(err)
		}
		replayed, failures := list.replay(extended(row.bank, row.form, 10, row.list...), Request{PCR: 10})
		if failures != nil {
			t.Errorf("%s: %v", name, failures)
			continue
		}
		state := replayed.State()
		if state.Forms.String() != row.want || replayed.Padded() != row.padded || state.Padded() != row.padded {
			t.Errorf("%s: forms %s, padded %v", name, state.Forms, replayed.Padded())
		}
		// a bank does not change its form within a boot
		for f := range formCount {
			more := all[4:5]
			list, err := ParseASCII(asciiOf(attest.SHA1, more...))
			if err != nil {
				t.Fatal(err)
			}
			quoted := pcr.Extend(state.PCR, more[0].extended(row.bank, f))
			_, failures := list.replay(quoted, Request{PCR: 10, First: state.Position, From: state})
			possible := row.bank == attest.SHA1 || state.Forms.has(f) || f != native && (state.Forms.has(padded) || state.Forms.has(paddedOnes))
			if (failures == nil) != possible {
				t.Errorf("%s, then %s: %v", name, f, failures)
			}
		}
	}
}

func TestStateJSON(t *testing.T) {
	all := boot(8)
	for name, state := range map[string]State{
		"start":   {},
		"proven":  stateAfter(t, all, 8, 8),
		"pending": stateAfter(t, all, 5, 8),
		"nothing": {Forms: allForms, Newlines: 3},
	} {
		text, err := json.Marshal(state)
		if err != nil {
			t.Fatal(err)
		}
		var back State
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(state, back, equateDigests()); diff != "" {
			t.Errorf("%s: %s (-before +after):\n%s", name, text, diff)
		}
	}
	if text, err := json.Marshal(State{}); err != nil || string(text) != `{"position":0}` {
		t.Errorf("the start is %s, %v", text, err)
	}
	var forms Forms
	if err := forms.UnmarshalText([]byte("native,other")); err == nil || !strings.Contains(err.Error(), `unknown form "other"`) {
		t.Errorf("an unknown form: %v", err)
	}
}

func TestStateLine(t *testing.T) {
	all := boot(4)
	all[1].name = "/a\nb\nc"
	all[3].name = "/d\n" // the violation
	state := stateAfter(t, all, 4, 4)
	if state.Position != 4 || state.Line() != 7 {
		t.Errorf("position %d, line %d", state.Position, state.Line())
	}
}

func TestContinues(t *testing.T) {
	all := boot(8)
	other := append([]measurement{}, all...)
	other[2].name = "/other"
	list := func(m ...measurement) List {
		l, err := ParseASCII(asciiOf(attest.SHA1, m...))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	state := stateAfter(t, all, 5, 5)
	unknown := state
	unknown.PCR = attest.Digest{}
	for name, row := range map[string]struct {
		list  List
		state State
		pcr   int
		want  bool
	}{
		"the same":         {list(all[:5]...), state, 10, true},
		"longer":           {list(all...), state, 10, true},
		"from the start":   {list(all...), State{}, 10, true},
		"shorter":          {list(all[:4]...), state, 10, false},
		"another":          {list(other...), state, 10, false},
		"another register": {list(all...), state, 11, false},
		"no register":      {list(all...), state, 24, false},
		"no value":         {list(all...), unknown, 10, false},
	} {
		if got := row.list.Continues(row.state, row.pcr); got != row.want {
			t.Errorf("%s: %v", name, got)
		}
		if row.list.Len() < 4 {
			t.Errorf("%s: the list was changed", name)
		}
	}
}

// The zero values of all types are refused or empty.
func TestZeroReplayed(t *testing.T) {
	var r Replayed
	if r.Valid() || r.Entries() != nil || r.Others() != nil || r.Pending() != nil || r.Padded() || r.Len() != 0 || len(r.ASCII()) != 0 {
		t.Error("the zero Replayed holds something")
	}
}

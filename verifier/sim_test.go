package verifier

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/eventlog"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/evidence/quote/quotetest"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/wire"
)

// box is a simulated machine: a TPM with its clock and PCRs, a kernel that measures, an agent that answers. Its evidence is real: signed
// quotes, a list that replays, the event log of a captured machine.
type box struct {
	t      testing.TB
	signer *quotetest.Signer
	other  *quotetest.Signer // a key of some other TPM
	clock  quote.Clock
	pcrs   map[int]attest.Digest
	list   []string
	log    []byte
	key    string // the agent's transport key
	ghosts []string
	owned  bool   // the AK is of the owner's hierarchy: a quote names it otherwise, and shows
	offset uint32 // this many resets more
}

const firmwareCapture = "../evidence/eventlog/testdata/fx-ovmf-tcb-ng"

// keys are made once: RSA takes its time.
var testSigners = sync.OnceValue(func() [4]*quotetest.Signer {
	var all [4]*quotetest.Signer
	for i := range all {
		all[i] = quotetest.NewSigner(&orphan{}, quotetest.ECDSAP256)
	}
	return all
})

// reimage makes another AK in the same TPM.
func (b *box) reimage() {
	signers := testSigners()
	if b.signer == signers[2] {
		b.signer = signers[3]
	} else {
		b.signer = signers[2]
	}
	b.owned, b.offset = false, 0
}

// child is the qualified name of the AK as a child of the EK.
func (b *box) child() []byte {
	b.t.Helper()
	ek, err := endorsement.ParseEK(ekPublic(b.t))
	if err != nil {
		b.t.Fatal(err)
	}
	return ek.QualifiedChild(b.signer.AK())
}

// orphan lets keys outlive the test that made them first.
type orphan struct{ testing.TB }

func (*orphan) Helper()                   {}
func (*orphan) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

func newBox(t testing.TB) *box {
	t.Helper()
	signers := testSigners()
	log, err := os.ReadFile(filepath.Join(firmwareCapture, "binary_bios_measurements"))
	if err != nil {
		t.Fatal(err)
	}
	b := &box{t: t, signer: signers[0], other: signers[1], log: log, key: "PEM of the first key\n"}
	b.clock = quote.Clock{Clock: 10_000_000, ResetCount: 4, Safe: true}
	b.boot()
	return b
}

// bootPCRs are PCR 0 to 9 of the captured machine in the SHA-256 bank.
func bootPCRs(t testing.TB) map[int]attest.Digest {
	t.Helper()
	file, err := os.Open(filepath.Join(firmwareCapture, "pcrs.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	values := map[int]attest.Digest{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		words := strings.Fields(lines.Text())
		index, err := strconv.Atoi(words[1])
		if err != nil {
			t.Fatal(err)
		}
		if words[0] == "sha256" && index < 10 {
			if values[index], err = attest.ParseDigest("sha256:" + strings.ToLower(words[2])); err != nil {
				t.Fatal(err)
			}
		}
	}
	return values
}

// boot is what happens from power-on to the agent's start.
func (b *box) boot() {
	b.pcrs, b.list, b.ghosts = bootPCRs(b.t), nil, nil
	for p := 10; p < pcr.Count; p++ {
		b.pcrs[p] = pcr.Initial(attest.SHA256, p)
	}
	b.startList()
	b.run("/usr/lib/systemd/systemd", "")
	b.run("/usr/bin/assay-agent", "")
}

// startList measures boot_aggregate, as a kernel does first.
func (b *box) startList() {
	var all [][]byte
	for p := range 10 {
		all = append(all, b.pcrs[p].Bytes())
	}
	b.measure("boot_aggregate", attest.SHA256.Sum(all...))
}

// contentOf is the digest of a file: of its name, or of its name and what it was changed to.
func contentOf(path, change string) attest.Digest {
	return attest.SHA256.Sum([]byte(path), []byte(change))
}

func (b *box) run(path, change string) { b.measure(path, contentOf(path, change)) }

// measure appends an ima-ng entry and extends PCR 10 with it.
func (b *box) measure(path string, digest attest.Digest) {
	line, data := entry(path, digest)
	b.list = append(b.list, line)
	b.pcrs[imaPCR] = pcr.Extend(b.pcrs[imaPCR], attest.SHA256.Sum(data).Bytes())
}

// entry writes an ima-ng entry in ASCII and its template data (security/integrity/ima/ima_template_lib.c).
func entry(path string, digest attest.Digest) (line string, data []byte) {
	for _, field := range [][]byte{append([]byte("sha256:\x00"), digest.Bytes()...), append([]byte(path), 0)} {
		data = append(binary.LittleEndian.AppendUint32(data, uint32(len(field))), field...)
	}
	return fmt.Sprintf("10 %s ima-ng %s %s\n", attest.SHA1.Sum(data).Hex(), digest, path), data
}

func (b *box) reset() {
	b.clock.ResetCount++
	b.clock.RestartCount = 0
	b.clock.Clock += 20_000
	b.boot()
}

func (b *box) powerCut() {
	b.reset()
	b.clock.Safe = false
	b.clock.Clock -= 25_000 // back to the last save
}

// restart is Shutdown(STATE) and Startup(CLEAR): a new boot whose reset counter stands.
func (b *box) restart() {
	b.clock.RestartCount++
	b.clock.Clock += 20_000
	b.boot()
}

func (b *box) suspend() {
	b.clock.RestartCount++
	b.clock.Clock += 20_000
}

// kexec starts another kernel: the PCRs stand, the list starts again.
func (b *box) kexec(entries int) {
	b.list = nil
	b.startList()
	for i := range entries {
		b.run(fmt.Sprintf("/usr/bin/kexeced-%d", i), "")
	}
}

func (b *box) snapshot() *box {
	c := *b
	c.pcrs, c.list = maps.Clone(b.pcrs), slices.Clone(b.list)
	return &c
}

// faults are what a hostile agent does to one answer.
type faults map[string]string

func (f faults) has(name string) bool { _, ok := f[name]; return ok }

// answer is the agent's answer to a request.
func (b *box) answer(r Request, f faults) Answer {
	b.t.Helper()
	b.clock.Clock += 10
	options := quotetest.Options{
		Nonce: []byte(r.Nonce), Values: pcr.Values{Bank: attest.SHA256, Digests: b.pcrs}, Selection: r.Selection,
		Clock: b.clock, TransportKey: []byte(b.key),
	}
	options.Clock.ResetCount += b.offset
	if !b.owned {
		child := b.child()
		options.Edit = func(a *quotetest.Attest) { a.Signer = child }
	}
	signer := b.signer
	b.disturbQuote(&options, &signer, f)
	raw := signer.Quote(options)
	if f.has("pcr-value") {
		raw.Digests[0] = attest.SHA256.Sum([]byte("another value")).Bytes()
	}
	if f.has("relabel") {
		// The values of PCR 8 and 9 are said to be those of 11 and 12.
		raw.Selections[0].Mask = raw.Selections[0].Mask&^(1<<8|1<<9) | 1<<11 | 1<<12
	}
	if path, ok := f["late"]; ok {
		b.run(path, "")
	}
	a := Answer{Quote: wire.PackQuote(raw), BootLog: b.log}
	if f.has("trailing") {
		a.Quote += ":AAAA"
	}
	if r.Full && !f.has("no-key") {
		a.TransportKey = b.key
	}
	if f.has("unbound-key") {
		a.TransportKey = "PEM of somebody in the middle\n"
	}
	b.answerList(&a, r, f)
	return a
}

func (b *box) disturbQuote(o *quotetest.Options, signer **quotetest.Signer, f faults) {
	switch {
	case f.has("stale-nonce"):
		o.Nonce = []byte("ABCDEFGHIJKLMNOPQRST")
	case f.has("other-ak"):
		*signer = b.other
	case f.has("extra-pcr"):
		o.Selection = o.Selection.With(12)
	case f.has("missing-pcr"):
		o.Selection.Mask &^= 1 << 7
	case f.has("other-bank"):
		o.Values, o.Selection.Bank = pcr.Values{Bank: attest.SHA1}, attest.SHA1
	case f.has("two-banks"):
		o.Edit = func(a *quotetest.Attest) { a.Selections = append(a.Selections, pcr.Select(attest.SHA1, 0)) }
	case f.has("clock-back"):
		o.Clock.Clock -= 60_000
	case f.has("resets-back"):
		o.Clock.ResetCount--
	}
}

func (b *box) answerList(a *Answer, r Request, f faults) {
	if f.has("no-log") {
		a.BootLog = nil
	}
	lines := slices.Clone(b.list)
	if path, ok := f["ghost"]; ok { // shown, never measured
		line, _ := entry(path, contentOf(path, ""))
		lines = append(lines, line)
	}
	switch {
	case f.has("no-list"):
		return
	case f.has("shorter"):
		lines = lines[:1]
	case f.has("without-last"):
		lines = lines[:len(lines)-1]
	case f.has("reorder"):
		lines[len(lines)-1], lines[len(lines)-2] = lines[len(lines)-2], lines[len(lines)-1]
	case f.has("false-hash"):
		last := &lines[len(lines)-1]
		*last = "10 " + strings.Repeat("ab", 20) + (*last)[43:]
	case f.has("hide"): // another name for the last file, with a hash that fits
		lines[len(lines)-1], _ = entry("/usr/bin/true", contentOf("/usr/bin/true", ""))
	case f.has("garbage-list"):
		lines = append(lines, "this is no entry\n")
	}
	if f.has("other-log") {
		a.BootLog = b.log[:len(b.log)*3/4]
	}
	if f.has("changed-log") { // the same events, another digest in the first one that counts
		a.BootLog = changedLog(b.t, b.log)
	}
	first := r.Offset
	if first > uint64(len(lines)) || f.has("from-zero") {
		first = 0
	}
	if f.has("from-one") {
		first = 1
	}
	a.HasList, a.First, a.List = true, first, []byte(strings.Join(lines[first:], ""))
}

// changedLog flips a bit in the digest of an event that PCR 0 was extended with: a log that parses and does not replay.
func changedLog(t testing.TB, text []byte) []byte {
	t.Helper()
	log, err := eventlog.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range log.Events() {
		if digest, ok := event.Digest(attest.SHA256); ok && event.PCR == 0 && event.Type != eventlog.NoAction {
			changed := slices.Clone(text)
			changed[bytes.Index(text, digest.Bytes())] ^= 1
			return changed
		}
	}
	t.Fatal("the log has no event for PCR 0")
	return nil
}

// document makes a Runtime document that allows the boot's files and some more.
func document(t testing.TB, name string, more ...string) *policy.Document {
	t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "apiVersion: policy.assay/v1\nkind: Runtime\nmetadata: {name: %s}\nspec:\n  digests:\n", name)
	for _, path := range append([]string{"/usr/lib/systemd/systemd", "/usr/bin/assay-agent", "/usr/bin/true"}, more...) {
		path, change, _ := strings.Cut(path, "=")
		fmt.Fprintf(&text, "    %s: [%q]\n", path, contentOf(path, change))
	}
	d, err := policy.Parse([]byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// pcrDocument allows the box's value of a PCR that no list needs.
func pcrDocument(t testing.TB, name string, index int, value attest.Digest) *policy.Document {
	t.Helper()
	d, err := policy.Parse(fmt.Appendf(nil, "apiVersion: policy.assay/v1\nkind: Pcr\nmetadata: {name: %s}\nspec:\n  pcrs:\n    %s:\n      %q: [%q]\n",
		name, value.Hash(), strconv.Itoa(index), value.Hex()))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// shelf is what a store keeps of a node's evidence.
type shelf struct {
	quote *StoredQuote
	lists map[string][]byte
	logs  map[string][]byte
}

func (s *shelf) keep(k Keep, boot string) {
	if s.lists == nil {
		s.lists, s.logs = map[string][]byte{}, map[string][]byte{}
	}
	if k.Quote != nil {
		s.quote = k.Quote
	}
	if c := k.Chunk; c != nil {
		if c.First == 0 {
			s.lists[c.Boot] = nil
		}
		s.lists[c.Boot] = append(s.lists[c.Boot], c.ASCII...)
	}
	if k.BootLog != nil {
		s.logs[boot] = k.BootLog
	}
}

func (s *shelf) stored(boot string) *Stored {
	if s.quote == nil || boot == "" {
		return nil
	}
	return &Stored{Quote: *s.quote, List: s.lists[boot], BootLog: s.logs[boot]}
}

// world is a box and the machine that watches it, in a time of its own.
type world struct {
	t       testing.TB
	box     *box
	state   State
	who     Subject
	now     time.Time
	next    time.Duration // until the scheduled round
	shelf   shelf
	actions []Action
	rounds  int
}

var testStart = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func newWorld(t testing.TB, documents ...*policy.Document) *world {
	t.Helper()
	b := newBox(t)
	return &world{t: t, box: b, now: testStart, who: Subject{AK: b.signer.AK(), Child: b.child(), Policies: documents, Interval: 30 * time.Second}}
}

func (w *world) step(e Event) {
	w.state, w.actions = Step(w.state, w.who, e)
	for _, action := range w.actions {
		switch a := action.(type) {
		case Keep:
			w.shelf.keep(a, w.state.Boot)
		case Schedule:
			w.next = a.After
		}
	}
}

// ask lets time pass until the next round and returns its request; ok is false when there is no round.
func (w *world) ask() (r Request, ok bool) {
	w.pass(w.next)
	w.rounds++
	w.step(Due{Now: w.now, Nonce: fmt.Sprintf("nonce%015d", w.rounds)})
	for _, action := range w.actions {
		if c, is := action.(Collect); is {
			return c.Request, true
		}
	}
	return Request{}, false
}

func (w *world) pass(d time.Duration) {
	w.now = w.now.Add(d)
	w.box.clock.Clock += uint64(d.Milliseconds())
}

// round is one round with an answer.
func (w *world) round(f faults) {
	w.t.Helper()
	r, ok := w.ask()
	if !ok {
		w.t.Fatal("no round was asked for")
	}
	w.step(Answered{Now: w.now, Request: r, Answer: w.box.answer(r, f)})
}

// reimage has the verifier take the box's present AK in place of the one before.
func (w *world) reimage() {
	old := w.who.AK
	w.who.AK, w.who.Child = w.box.signer.AK(), w.box.child()
	w.step(Reimaged{Now: w.now, Old: old.Name(), New: w.who.AK.Name()})
}

func (w *world) verdict() attest.Verdict { return w.state.Read(w.now, w.who.Interval) }

func (w *world) change(documents ...*policy.Document) {
	w.who.Policies = documents
	w.step(PoliciesChanged{Now: w.now, Stored: w.shelf.stored(w.state.Boot)})
}

func ids(failures []attest.Failure) []attest.FailureID {
	var all []attest.FailureID
	for _, f := range failures {
		if !slices.Contains(all, f.ID) {
			all = append(all, f.ID)
		}
	}
	return all
}

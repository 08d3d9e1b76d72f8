// Package boxtest simulates a machine with a TPM and an agent, for tests of what asks and judges it. Its evidence is real: signed quotes, a
// list that replays, the event log of a captured machine. It knows nothing of verifiers, so that the tests of each of their packages can use it.
package boxtest

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

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/eventlog"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/evidence/quote/quotetest"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/wire"
)

// Box is a simulated machine: a TPM with its clock and PCRs, a kernel that measures, an agent that answers.
type Box struct {
	t      testing.TB
	Signer *quotetest.Signer // the AK
	Other  *quotetest.Signer // a key of some other TPM
	Clock  quote.Clock
	PCRs   map[int]attest.Digest // of the SHA-256 bank
	List   []string              // the lines of the measurement list in ASCII
	Log    []byte                // the TCG event log
	Key    string                // the agent's transport key
	Owned  bool                  // the AK is of the owner's hierarchy: a quote names it otherwise, and shows
	Offset uint32                // this many resets more
}

const (
	// listPCR is the PCR of the measurement list.
	listPCR = 10

	firmwareCapture = "evidence/eventlog/testdata/fx-ovmf-tcb-ng"
)

// Signers are the AKs that boxes have: the first one, that of another TPM, and two that a machine may be given instead. They are made once.
var Signers = sync.OnceValue(func() [4]*quotetest.Signer {
	var all [4]*quotetest.Signer
	for i := range all {
		all[i] = quotetest.NewSigner(&orphan{}, quotetest.ECDSAP256)
	}
	return all
})

// Reimage makes another AK in the same TPM.
func (b *Box) Reimage() {
	signers := Signers()
	if b.Signer == signers[2] {
		b.Signer = signers[3]
	} else {
		b.Signer = signers[2]
	}
	b.Owned, b.Offset = false, 0
}

// Child is the qualified name of the AK as a child of the EK.
func (b *Box) Child() []byte {
	b.t.Helper()
	ek, err := endorsement.ParseEK(EKPublic())
	if err != nil {
		b.t.Fatal(err)
	}
	return ek.QualifiedChild(b.Signer.AK())
}

// orphan lets keys outlive the test that made them first.
type orphan struct{ testing.TB }

func (*orphan) Helper()                   {}
func (*orphan) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

// EKPublic is the TPM2B_PUBLIC of an EK by the TCG's ECC template (EK Credential Profile, B.3.4), whose point is that of a test's key.
func EKPublic() []byte {
	public := Signers()[1].Public()
	point := public[len(public)-68:] // two sized coordinates
	area := binary.BigEndian.AppendUint16(nil, 0x0023)
	area = append(area, 0x00, 0x0b, 0x00, 0x03, 0x00, 0xb2, 0x00, 0x20)
	area = append(area, attest.SHA256.Sum([]byte("policy")).Bytes()...)
	area = append(area, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x00, 0x03, 0x00, 0x10)
	area = append(area, point...)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(area))), area...)
}

// New makes a machine that has booted and runs its agent.
func New(t testing.TB) *Box {
	t.Helper()
	signers := Signers()
	log, err := os.ReadFile(filepath.Join(capture(t), "binary_bios_measurements"))
	if err != nil {
		t.Fatal(err)
	}
	b := &Box{t: t, Signer: signers[0], Other: signers[1], Log: log, Key: "PEM of the first key\n"}
	b.Clock = quote.Clock{Clock: 10_000_000, ResetCount: 4, Safe: true}
	b.boot()
	return b
}

// capture finds the captured machine from the package whose tests run.
func capture(t testing.TB) string {
	t.Helper()
	for up := "."; len(up) < 16; up = filepath.Join("..", up) {
		if folder := filepath.Join(up, firmwareCapture); isFolder(folder) {
			return folder
		}
	}
	t.Fatalf("%s is in no folder above this one", firmwareCapture)
	return ""
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// bootPCRs are PCR 0 to 9 of the captured machine in the SHA-256 bank.
func bootPCRs(t testing.TB) map[int]attest.Digest {
	t.Helper()
	file, err := os.Open(filepath.Join(capture(t), "pcrs.txt"))
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
func (b *Box) boot() {
	b.PCRs, b.List = bootPCRs(b.t), nil
	for p := 10; p < pcr.Count; p++ {
		b.PCRs[p] = pcr.Initial(attest.SHA256, p)
	}
	b.startList()
	b.Run("/usr/lib/systemd/systemd", "")
	b.Run("/usr/bin/assay-agent", "")
}

// startList measures boot_aggregate, as a kernel does first.
func (b *Box) startList() {
	var all [][]byte
	for p := range 10 {
		all = append(all, b.PCRs[p].Bytes())
	}
	b.Measure("boot_aggregate", attest.SHA256.Sum(all...))
}

// ContentOf is the digest of a file: of its name, or of its name and what it was changed to.
func ContentOf(path, change string) attest.Digest {
	return attest.SHA256.Sum([]byte(path), []byte(change))
}

// Run measures a file; one that was changed has another content.
func (b *Box) Run(path, change string) { b.Measure(path, ContentOf(path, change)) }

// Measure appends an ima-ng entry and extends PCR 10 with it.
func (b *Box) Measure(path string, digest attest.Digest) {
	line, data := Entry(path, digest)
	b.List = append(b.List, line)
	b.PCRs[listPCR] = pcr.Extend(b.PCRs[listPCR], attest.SHA256.Sum(data).Bytes())
}

// Entry writes an ima-ng entry in ASCII and its template data (security/integrity/ima/ima_template_lib.c).
func Entry(path string, digest attest.Digest) (line string, data []byte) {
	for _, field := range [][]byte{append([]byte("sha256:\x00"), digest.Bytes()...), append([]byte(path), 0)} {
		data = append(binary.LittleEndian.AppendUint32(data, uint32(len(field))), field...)
	}
	return fmt.Sprintf("10 %s ima-ng %s %s\n", attest.SHA1.Sum(data).Hex(), digest, path), data
}

// Reset is a new boot.
func (b *Box) Reset() {
	b.Clock.ResetCount++
	b.Clock.RestartCount = 0
	b.Clock.Clock += 20_000
	b.boot()
}

// PowerCut is a new boot after which the clock stands where it was last saved.
func (b *Box) PowerCut() {
	b.Reset()
	b.Clock.Safe = false
	b.Clock.Clock -= 25_000 // back to the last save
}

// Restart is Shutdown(STATE) and Startup(CLEAR): a new boot whose reset counter stands.
func (b *Box) Restart() {
	b.Clock.RestartCount++
	b.Clock.Clock += 20_000
	b.boot()
}

// Suspend is Shutdown(STATE) and Startup(STATE): PCRs and list go on.
func (b *Box) Suspend() {
	b.Clock.RestartCount++
	b.Clock.Clock += 20_000
}

// Kexec starts another kernel: the PCRs stand, the list starts again.
func (b *Box) Kexec(entries int) {
	b.List = nil
	b.startList()
	for i := range entries {
		b.Run(fmt.Sprintf("/usr/bin/kexeced-%d", i), "")
	}
}

// Snapshot is a copy that goes its own way.
func (b *Box) Snapshot() *Box {
	c := *b
	c.PCRs, c.List = maps.Clone(b.PCRs), slices.Clone(b.List)
	return &c
}

// Faults are what a hostile agent does to one answer.
type Faults map[string]string

func (f Faults) has(name string) bool { _, ok := f[name]; return ok }

// Ask is what a verifier asks for, Reply what the agent says to it: claims, all of them.
type (
	Ask struct {
		Nonce     string
		Selection pcr.Selection
		Offset    uint64
		Full      bool
	}
	Reply struct {
		Quote        string
		TransportKey string
		List         []byte
		HasList      bool
		First        uint64
		BootLog      []byte
	}
)

// Answer is the agent's answer to a request.
func (b *Box) Answer(r Ask, f Faults) Reply {
	b.t.Helper()
	b.Clock.Clock += 10
	options := quotetest.Options{
		Nonce: []byte(r.Nonce), Values: pcr.Values{Bank: attest.SHA256, Digests: b.PCRs}, Selection: r.Selection,
		Clock: b.Clock, TransportKey: []byte(b.Key),
	}
	options.Clock.ResetCount += b.Offset
	if !b.Owned {
		child := b.Child()
		options.Edit = func(a *quotetest.Attest) { a.Signer = child }
	}
	signer := b.Signer
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
		b.Run(path, "")
	}
	a := Reply{Quote: wire.PackQuote(raw), BootLog: b.Log}
	if f.has("trailing") {
		a.Quote += ":AAAA"
	}
	if r.Full && !f.has("no-key") {
		a.TransportKey = b.Key
	}
	if f.has("unbound-key") {
		a.TransportKey = "PEM of somebody in the middle\n"
	}
	b.answerList(&a, r, f)
	return a
}

func (b *Box) disturbQuote(o *quotetest.Options, signer **quotetest.Signer, f Faults) {
	switch {
	case f.has("stale-nonce"):
		o.Nonce = []byte("ABCDEFGHIJKLMNOPQRST")
	case f.has("other-ak"):
		*signer = b.Other
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

func (b *Box) answerList(a *Reply, r Ask, f Faults) {
	if f.has("no-log") {
		a.BootLog = nil
	}
	lines := slices.Clone(b.List)
	if path, ok := f["ghost"]; ok { // shown, never measured
		line, _ := Entry(path, ContentOf(path, ""))
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
		lines[len(lines)-1], _ = Entry("/usr/bin/true", ContentOf("/usr/bin/true", ""))
	case f.has("garbage-list"):
		lines = append(lines, "this is no entry\n")
	}
	if f.has("other-log") {
		a.BootLog = b.Log[:len(b.Log)*3/4]
	}
	if f.has("changed-log") { // the same events, another digest in the first one that counts
		a.BootLog = ChangedLog(b.t, b.Log)
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

// ChangedLog flips a bit in the digest of an event that PCR 0 was extended with: a log that parses and does not replay.
func ChangedLog(t testing.TB, text []byte) []byte {
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

// Document makes a Runtime document that allows the boot's files and some more.
func Document(t testing.TB, name string, more ...string) *policy.Document {
	t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "apiVersion: policy.assay/v1\nkind: Runtime\nmetadata: {name: %s}\nspec:\n  digests:\n", name)
	for _, path := range append([]string{"/usr/lib/systemd/systemd", "/usr/bin/assay-agent", "/usr/bin/true"}, more...) {
		path, change, _ := strings.Cut(path, "=")
		fmt.Fprintf(&text, "    %s: [%q]\n", path, ContentOf(path, change))
	}
	d, err := policy.Parse([]byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// PCRDocument allows the box's value of a PCR that no list needs.
func PCRDocument(t testing.TB, name string, index int, value attest.Digest) *policy.Document {
	t.Helper()
	d, err := policy.Parse(fmt.Appendf(nil, "apiVersion: policy.assay/v1\nkind: Pcr\nmetadata: {name: %s}\nspec:\n  pcrs:\n    %s:\n      %q: [%q]\n",
		name, value.Hash(), strconv.Itoa(index), value.Hex()))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

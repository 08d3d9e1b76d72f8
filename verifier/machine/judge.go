package machine

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/assay-project/assay/appraisal"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/eventlog"
	"github.com/assay-project/assay/evidence/ima"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/wire"
)

// imaPCR is the PCR of the measurement list; containerPCR may hold container measurements. Boot appraisal leaves both to their lists.
const (
	imaPCR       = 10
	containerPCR = 11
)

// MaxListBytes bounds the list of one boot, of which all is stored, as much as an answer may hold: a longer one could not be asked for from its start any more. Whoever owns a
// machine can extend PCR 10, and so prove entries of any kind, without end.
const MaxListBytes = 64 << 20

// judgement is what one answer proves.
type judgement struct {
	// accepted: a quote that follows the last accepted one stands behind it. There may be failures all the same.
	accepted bool
	// again: the answer decides nothing; the list is to be asked for from its start, with the transport key.
	again bool
	// whole: everything of this boot was judged, from the start of the list.
	whole, newBoot bool
	// perhapsSameBoot: the evidence starts anew with another AK, and nothing proves that the machine booted since that was taken.
	// comparable: the quote's clock holds the TPM's own counters.
	perhapsSameBoot, comparable bool

	boot         string
	clock        *quote.Clock
	ima          ima.State
	listBytes    uint64 // of the list up to ima.Position
	progress     appraisal.Progress
	transportKey string
	bootLog      attest.Digest
	// listBroken: a list was sent, and it does not lead to the quoted PCR. logBroken: so does the event log.
	listBroken, logBroken bool
	failures              []attest.Failure
	result                attest.Result
	keep                  Keep
}

func refused(failures ...attest.Failure) judgement { return judgement{failures: failures} }

// judge verifies, replays and appraises one answer.
func judge(s State, who Subject, e Answered) judgement {
	if e.Malformed != "" {
		return refused(attest.Fail(attest.EvidenceMalformed, e.Malformed))
	}
	if e.Foreign != "" {
		return refused(attest.Fail(attest.AgentKeyMismatch, e.Foreign))
	}
	verified, failures := verify(s, who, e.Request, e.Answer)
	switch {
	case verified.Valid() && len(failures) == 0:
		return place(s, who, e, verified)
	case verified.Valid():
		// A clock that went back is proven by the quote. Nothing else of it is taken over: what follows is judged from before it.
		return judgement{failures: failures, keep: Keep{Quote: storedQuote(e, verified, s.Boot, s.IMA.Position)}}
	case !e.Request.Full && e.Answer.TransportKey == "" && onlyTransportKey(failures):
		// A reboot or a restart may have brought another key: ask for it before calling it a fault.
		return judgement{again: true}
	}
	return refused(failures...)
}

func onlyTransportKey(failures []attest.Failure) bool {
	return !slices.ContainsFunc(failures, func(f attest.Failure) bool { return f.ID != attest.TransportKeyMismatch })
}

// verify parses the packed quote and checks it against the request.
func verify(s State, who Subject, request Request, answer Answer) (quote.Verified, []attest.Failure) {
	raw, err := wire.UnpackQuote(answer.Quote)
	if err != nil {
		return quote.Verified{}, []attest.Failure{attest.Fail(attest.QuoteMalformed, err.Error())}
	}
	q, err := quote.Parse(raw)
	if err != nil {
		return quote.Verified{}, []attest.Failure{attest.Fail(attest.QuoteMalformed, err.Error())}
	}
	want := quote.Expected{AK: who.AK, Nonce: []byte(request.Nonce), Selection: request.Selection, Last: s.Clock}
	switch {
	case answer.TransportKey != "":
		want.TransportKey = []byte(answer.TransportKey)
		if s.TransportKey != "" {
			want.TransportKnown = []byte(s.TransportKey)
		}
	case request.Full:
		return quote.Verified{}, []attest.Failure{attest.Fail(attest.TransportKeyMismatch, "the agent was asked for its transport key and sent none")}
	default:
		want.TransportKey = []byte(s.TransportKey)
	}
	if s.Reattest {
		want.Last, want.TransportKnown = nil, nil // a person's act: everything is judged again
	}
	return quote.Verify(q, want)
}

// place finds out which boot the evidence belongs to, and appraises it.
func place(s State, who Subject, e Answered, v quote.Verified) judgement {
	clock := v.Clock()
	j := judgement{accepted: true, clock: &clock, boot: s.Boot, transportKey: string(v.TransportKey()), whole: s.whole(),
		comparable: who.Child != nil && bytes.Equal(v.QualifiedSigner(), who.Child)}
	if e.Answer.HasList && e.Answer.First != 0 && (j.whole || e.Answer.First != e.Request.Offset) {
		return fromStart(e)
	}
	base := s
	switch v.Continuity() {
	case quote.FirstSeen:
		j.newBoot = !s.sameBoot(clock)
		j.perhapsSameBoot = s.Replaced && !(j.comparable && s.bootedSince(clock))
		base = startOf(s)
	case quote.NewBoot:
		j.newBoot = true
	case quote.Resumed:
		switch restarted(s, e, v) {
		case unknown:
			return fromStart(e)
		case yes:
			j.newBoot = true
		case no:
			if j.transportKey != s.TransportKey {
				return refused(attest.Fail(attest.TransportKeyMismatch, "The transport key changed within a boot."))
			}
		}
	}
	if j.newBoot {
		if e.Answer.HasList && e.Answer.First != 0 {
			return fromStart(e)
		}
		base, j.boot, j.whole = startOf(s), bootID(who, clock), true
	}
	if j = appraise(base, who, e, v, j); j.listBytes > MaxListBytes {
		return refused(attest.Fail(attest.EvidenceMalformed, fmt.Sprintf("the list of this boot has %d bytes, more than %d", j.listBytes, int64(MaxListBytes))))
	}
	return j
}

// sameBoot tells a reattest, before which no clock counts, whether it looks at the boot that is known.
func (s State) sameBoot(now quote.Clock) bool {
	if s.Clock == nil || s.Boot == "" {
		return false
	}
	continuity, ok := now.Since(*s.Clock)
	return ok && continuity == quote.SameBoot
}

// fromStart asks for the list from its start; an agent that was asked so already and answered otherwise is refused.
func fromStart(e Answered) judgement {
	if e.Request.Offset == 0 {
		return refused(attest.Fail(attest.EvidenceMalformed, fmt.Sprintf("asked for the list from its start, the agent answered from entry %d on", e.Answer.First)))
	}
	return judgement{again: true}
}

// startOf is the state before the first entry of a boot.
func startOf(s State) State {
	s.IMA, s.ListBytes, s.Progress, s.BootLog = ima.State{}, 0, appraisal.Progress{}, attest.Digest{}
	return s
}

// answer is yes, no or unknown.
type answer int

const (
	no answer = iota
	yes
	unknown
)

// restarted tells TPM Restart (PCRs and list start again) from TPM Resume (both go on) when only the restart counter rose. The quoted PCR
// decides, not what the agent says of its list: a list that goes on from the proven value is a Resume, one that leads from the start to
// the quoted value and does not go on is a Restart. Where neither holds, it is the same boot with a list that does not replay.
func restarted(s State, e Answered, v quote.Verified) answer {
	if !e.Answer.HasList || s.IMA.Position == 0 {
		return no
	}
	list, err := ima.ParseASCII(e.Answer.List)
	if err != nil {
		return no
	}
	from := s.IMA
	from.Held = nil
	if goesOn, _ := list.Replay(v, ima.Request{PCR: imaPCR, First: e.Answer.First, From: from}); goesOn.Valid() {
		return no
	}
	if e.Answer.First != 0 {
		return unknown
	}
	if fresh, _ := list.Replay(v, ima.Request{PCR: imaPCR}); fresh.Valid() {
		return yes
	}
	return no
}

// bootID names a boot by its AK and the TPM's counters at the boot's first accepted quote.
func bootID(who Subject, c quote.Clock) string {
	run := sha256.New()
	run.Write([]byte("assay.boot.v1"))
	run.Write(who.AK.Name())
	var counters [8]byte
	binary.BigEndian.PutUint32(counters[:4], c.ResetCount)
	binary.BigEndian.PutUint32(counters[4:], c.RestartCount)
	run.Write(counters[:])
	return hex.EncodeToString(run.Sum(nil)[:8])
}

// appraise replays list and event log on the base state and applies the policies. What does not replay keeps nothing else from being
// judged.
func appraise(base State, who Subject, e Answered, v quote.Verified, j judgement) judgement {
	evidence := appraisal.Evidence{Quote: v}
	if j.whole {
		base.Progress = appraisal.Progress{}
	}
	j.ima, j.listBytes, j.progress = base.IMA, base.ListBytes, base.Progress
	if e.Answer.HasList && v.Selection().Has(imaPCR) {
		replayed, failures := replayList(base, j.whole, e, v)
		j.failures = append(j.failures, failures...)
		if j.listBroken = !replayed.Valid(); !j.listBroken {
			evidence.IMA = &replayed
			j.ima = replayed.State()
			if j.keep.Chunk = chunkOf(replayed, j.boot); j.keep.Chunk != nil {
				if j.keep.Chunk.First == 0 {
					j.listBytes = 0
				}
				j.listBytes += uint64(len(j.keep.Chunk.ASCII))
			}
		}
	}
	if e.Answer.BootLog != nil {
		replayed, failures := replayBootLog(e.Answer.BootLog, v)
		j.failures = append(j.failures, failures...)
		if j.logBroken = !replayed.Valid(); !j.logBroken {
			evidence.EventLog = &replayed
			if digest := attest.SHA256.Sum(e.Answer.BootLog); digest != base.BootLog {
				j.bootLog, j.keep.BootLog = digest, e.Answer.BootLog
			}
		}
	}
	j = j.apply(appraisal.Input{Evidence: evidence, Policies: who.Policies, Progress: base.Progress, RefusedIMAPolicies: who.Terms.RefusedIMAPolicies})
	if doubt := who.Terms.Endorsed.Doubt(); doubt != nil && len(who.Policies) > 0 { // where no policy applies, nothing is shown as trusted anyway
		j.failures = append([]attest.Failure{*doubt}, j.failures...)
	}
	j.keep.Quote = storedQuote(e, v, j.boot, j.ima.Position)
	return j
}

// apply appraises what was proven. Evidence that was sent and does not replay is not called missing as well.
func (j judgement) apply(in appraisal.Input) judgement {
	result, progress := appraisal.Appraise(in)
	failures := result.Failures
	if j.listBroken || j.logBroken {
		failures = slices.DeleteFunc(slices.Clone(failures), func(f attest.Failure) bool { return f.ID == attest.EvidenceMissing })
	}
	if !j.listBroken {
		j.progress = progress
	}
	j.result = result
	var all attest.Result // bounds them
	all.Add(j.failures...)
	all.Add(failures...)
	j.failures = writable(all.Failures)
	if len(j.failures) == 0 && len(in.Policies) > 0 && !result.Passed() {
		j.failures = []attest.Failure{attest.Fail(attest.EvidenceUnverified, "Appraisal did not come to an end.")}
	}
	return j
}

// writable escapes what is not UTF-8 in the names of files. JSON would change it on the way to the store, and a failure that was read again
// would look like another one.
func writable(failures []attest.Failure) []attest.Failure {
	failures = slices.Clone(failures)
	for i, f := range failures {
		failures[i].Path, failures[i].Detail = escapeInvalid(f.Path), escapeInvalid(f.Detail)
	}
	return failures
}

// escapeInvalid writes each byte that is not UTF-8 as \xNN.
func escapeInvalid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var out strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && size == 1 {
			fmt.Fprintf(&out, `\x%02x`, s[0])
		} else {
			out.WriteString(s[:size])
		}
		s = s[size:]
	}
	return out.String()
}

func storedQuote(e Answered, v quote.Verified, boot string, position uint64) *StoredQuote {
	return &StoredQuote{
		Digest: v.Digest(), Boot: boot, At: e.Now, Nonce: e.Request.Nonce, Packed: e.Answer.Quote,
		Bank: e.Request.Selection.Bank, Mask: e.Request.Selection.Mask, Position: position,
	}
}

// replayList parses the list and replays it from where the base state stands, or, for a whole one, from the start; then it is still held
// against the state, so that entries that were shown before cannot be taken back.
func replayList(base State, whole bool, e Answered, v quote.Verified) (ima.Replayed, []attest.Failure) {
	list, err := ima.ParseASCII(e.Answer.List)
	if err != nil {
		return ima.Replayed{}, []attest.Failure{attest.Fail(attest.ListMalformed, err.Error())}
	}
	replayed, failures := list.Replay(v, ima.Request{PCR: imaPCR, First: e.Answer.First, From: base.IMA})
	if e.Answer.First == 0 && !replayed.Valid() {
		if why, ok := listRestarted(base, list, v); ok {
			return ima.Replayed{}, []attest.Failure{why}
		}
	}
	if !whole || base.IMA.Position == 0 && base.IMA.Held == nil {
		return replayed, failures
	}
	if !replayed.Valid() {
		return ima.Replayed{}, failures
	}
	changed := slices.DeleteFunc(failures, func(f attest.Failure) bool { return f.ID != attest.HeldEntriesChanged })
	replayed, failures = list.Replay(v, ima.Request{PCR: imaPCR})
	return replayed, append(failures, changed...)
}

// listRestarted recognises kexec: the PCR goes on where it was proven, by entries of a list that started again.
func listRestarted(base State, list ima.List, v quote.Verified) (attest.Failure, bool) {
	if base.IMA.Position == 0 || list.Len() == 0 {
		return attest.Failure{}, false
	}
	moved := base.IMA
	moved.Held = nil
	goesOn, _ := list.Replay(v, ima.Request{PCR: imaPCR, First: moved.Position, From: moved})
	if !goesOn.Valid() || goesOn.Len() == 0 { // with none of its entries, the PCR stands where it stood: that list was cut off
		return attest.Failure{}, false
	}
	return attest.Fail(attest.ListRestarted, fmt.Sprintf("%d entries were proven in this boot; the list started again, with %d, and continues the PCR.",
		base.IMA.Position, list.Len())), true
}

func chunkOf(r ima.Replayed, boot string) *Chunk {
	count := r.State().Position - r.First()
	if count == 0 {
		return nil
	}
	return &Chunk{Boot: boot, First: r.First(), Count: count, ASCII: r.ASCII()}
}

func replayBootLog(text []byte, v quote.Verified) (eventlog.Replayed, []attest.Failure) {
	log, err := eventlog.Parse(text)
	if err != nil {
		return eventlog.Replayed{}, []attest.Failure{attest.Fail(attest.EventLogMalformed, err.Error())}
	}
	return log.Replay(v, pcr.Select(v.Values().Bank, imaPCR, containerPCR))
}

// judge verifies the stored quote again, replays the whole stored evidence and applies the policies that hold now; ok is false where the
// stored evidence is not enough for that. Freshness was judged when the evidence came; the transport key binds nothing here.
func (st Stored) judge(s State, who Subject) (j judgement, ok bool) {
	raw, err := wire.UnpackQuote(st.Quote.Packed)
	if err != nil {
		return judgement{}, false
	}
	q, err := quote.Parse(raw)
	if err != nil {
		return judgement{}, false
	}
	asked := st.Quote.Selection()
	v, _ := quote.Verify(q, quote.Expected{AK: who.AK, Nonce: []byte(st.Quote.Nonce), Selection: asked})
	needs := appraisal.Needs(who.Policies)
	if !v.Valid() || st.Quote.Boot != s.Boot || needs.Bank != asked.Bank || needs.Mask&^asked.Mask != 0 {
		return judgement{}, false
	}
	e := Answered{Now: st.Quote.At, Request: Request{Nonce: st.Quote.Nonce, Selection: asked},
		Answer: Answer{Quote: st.Quote.Packed, List: st.List, HasList: len(st.List) > 0, BootLog: st.BootLog}}
	j = appraise(startOf(s), who, e, v, judgement{accepted: true, boot: s.Boot, whole: true})
	missing := slices.ContainsFunc(j.failures, func(f attest.Failure) bool { return f.ID == attest.EvidenceMissing })
	return j, !j.listBroken && !j.logBroken && !missing && j.ima.Position == s.IMA.Position
}

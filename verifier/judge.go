package verifier

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

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

// Request is what a round asks an agent for.
type Request struct {
	// Nonce is 20 letters and digits; the agent quotes its ASCII bytes.
	Nonce     string
	Selection pcr.Selection
	// Offset is the list position from which entries are wanted; Full asks for the transport key as well.
	Offset uint64
	Full   bool
}

// Answer is what an agent answered: claims, all of them.
type Answer struct {
	// Quote is Keylime's packed quote.
	Quote string
	// TransportKey is the PEM key, "" when the agent sent none.
	TransportKey string
	// List is the measurement list in ASCII from position First on, when HasList.
	List    []byte
	HasList bool
	First   uint64
	// BootLog is the TCG event log, nil when the agent sent none.
	BootLog []byte
}

// Stored is the whole evidence of a boot as it was accepted.
type Stored struct {
	Quote   StoredQuote
	List    []byte
	BootLog []byte
}

// judgement is what one answer proves. accepted says that a verified quote stands behind it; failures may be there all the same.
type judgement struct {
	accepted, again bool
	newBoot         bool
	boot            string
	clock           *quote.Clock
	ima             ima.State
	progress        appraisal.Progress
	transportKey    string
	bootLog         attest.Digest
	failures        []attest.Failure
	result          attest.Result
	keep            Keep
}

func refused(failures ...attest.Failure) judgement { return judgement{failures: failures} }

// judge verifies, replays and appraises one answer.
func judge(s State, who Subject, e Answered) judgement {
	if e.Malformed != "" {
		return refused(attest.Fail(attest.EvidenceMalformed, e.Malformed))
	}
	verified, failures := verify(s, who, e.Request, e.Answer)
	if !verified.Valid() {
		if !e.Request.Full && onlyTransportKey(failures) {
			// A reboot or a restart may have brought another key: ask for it before calling it a fault.
			return judgement{again: true}
		}
		return refused(failures...)
	}
	if len(failures) > 0 { // a clock that went back: proven by the quote, and nothing else of it is taken over
		return judgement{accepted: true, failures: failures, ima: s.IMA, progress: s.Progress, boot: s.Boot}
	}
	return place(s, who, e, verified)
}

func onlyTransportKey(failures []attest.Failure) bool {
	for _, f := range failures {
		if f.ID != attest.TransportKeyMismatch {
			return false
		}
	}
	return true
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

// place finds out which boot the list belongs to and replays it.
func place(s State, who Subject, e Answered, v quote.Verified) judgement {
	clock := v.Clock()
	j := judgement{accepted: true, clock: &clock, boot: s.Boot, transportKey: e.Answer.TransportKey}
	base := s
	switch v.Continuity() {
	case quote.FirstSeen, quote.NewBoot:
		if e.Answer.HasList && e.Answer.First != 0 {
			return fromStart(e)
		}
		base = startOf(s)
		j.newBoot = true
	case quote.Resumed:
		restarted, again := resumed(s, e)
		if again {
			return fromStart(e)
		}
		if restarted {
			base = startOf(s)
			j.newBoot = true
		}
	}
	if s.Reattest {
		base = startOf(s)
		j.newBoot = j.newBoot || bootID(who, clock) != s.Boot && v.Continuity() == quote.FirstSeen
	}
	if j.newBoot {
		j.boot = bootID(who, clock)
	}
	return appraise(base, who, e, v, j)
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
	s.IMA, s.Progress, s.BootLog = ima.State{}, appraisal.Progress{}, attest.Digest{}
	return s
}

// resumed tells TPM Resume (PCRs and list go on) from TPM Restart (both start again) when only the restart counter rose.
func resumed(s State, e Answered) (restarted, again bool) {
	switch {
	case !e.Answer.HasList || s.IMA.Position == 0:
		return false, false
	case e.Answer.First == 0 && e.Request.Offset > 0:
		return true, false // the list is shorter than what was proven: the replay from zeros decides
	case e.Answer.First == 0:
		list, err := ima.ParseASCII(e.Answer.List)
		return err == nil && !list.Continues(s.IMA, imaPCR), false
	}
	// The offset lies within the list; whether it is the same list shows only from its start.
	return false, e.Request.Offset > 0
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

// appraise replays list and event log on the base state and applies the policies.
func appraise(base State, who Subject, e Answered, v quote.Verified, j judgement) judgement {
	evidence := appraisal.Evidence{Quote: v}
	if e.Answer.HasList && e.Answer.First == 0 {
		base.Progress = appraisal.Progress{} // the list is judged from its start
	}
	j.ima, j.progress = base.IMA, base.Progress
	if e.Answer.HasList {
		replayed, failures := replayList(base, e, v)
		j.failures = append(j.failures, failures...)
		if len(failures) == 0 {
			evidence.IMA = &replayed
			j.ima = replayed.State()
			j.keep.Chunk = chunkOf(replayed, j.boot)
		}
	}
	if e.Answer.BootLog != nil {
		replayed, failures := replayBootLog(e.Answer.BootLog, v)
		j.failures = append(j.failures, failures...)
		if len(failures) == 0 {
			evidence.EventLog = &replayed
			if digest := attest.SHA256.Sum(e.Answer.BootLog); digest != base.BootLog {
				j.bootLog, j.keep.BootLog = digest, e.Answer.BootLog
			}
		}
	}
	if len(j.failures) == 0 {
		j.result, j.progress = appraisal.Appraise(appraisal.Input{Evidence: evidence, Policies: who.Policies, Progress: base.Progress})
		j.failures = j.result.Failures
	}
	j.keep.Quote = &StoredQuote{
		Digest: v.Digest(), Boot: j.boot, At: e.Now, Nonce: e.Request.Nonce, Packed: e.Answer.Quote,
		Bank: e.Request.Selection.Bank, Mask: e.Request.Selection.Mask, Position: j.ima.Position,
	}
	return j
}

// replayList parses the list and replays it from where the base state stands; it tells a rolled back list from one that kexec started again.
func replayList(base State, e Answered, v quote.Verified) (ima.Replayed, []attest.Failure) {
	list, err := ima.ParseASCII(e.Answer.List)
	if err != nil {
		return ima.Replayed{}, []attest.Failure{attest.Fail(attest.ListMalformed, err.Error())}
	}
	at := e.Answer.First
	switch {
	case at == base.IMA.Position:
		return list.Replay(v, ima.Request{PCR: imaPCR, First: at, From: base.IMA})
	case at == 0 && uint64(list.Len()) >= base.IMA.Position:
		return list.Replay(v, ima.Request{PCR: imaPCR})
	case at == 0:
		moved := base.IMA
		moved.Held = nil
		if _, failures := list.Replay(v, ima.Request{PCR: imaPCR, First: moved.Position, From: moved}); len(failures) == 0 && list.Len() > 0 {
			return ima.Replayed{}, []attest.Failure{attest.Fail(attest.ListRestarted,
				fmt.Sprintf("%d entries were proven in this boot; the list started again with %d and continues the PCR", base.IMA.Position, list.Len()))}
		}
		return ima.Replayed{}, []attest.Failure{attest.Fail(attest.ListRolledBack,
			fmt.Sprintf("%d entries were proven in this boot; the list has %d", base.IMA.Position, list.Len()))}
	}
	return ima.Replayed{}, []attest.Failure{attest.Fail(attest.ListRolledBack,
		fmt.Sprintf("asked for entries from %d on, the agent answered from %d on", e.Request.Offset, at))}
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

// judge verifies the stored quote again, replays the whole stored list and applies the policies that hold now.
// Freshness was judged when the evidence came; the transport key binds nothing here.
func (st Stored) judge(s State, who Subject) judgement {
	raw, err := wire.UnpackQuote(st.Quote.Packed)
	if err != nil {
		return refused(attest.Fail(attest.QuoteMalformed, err.Error()))
	}
	q, err := quote.Parse(raw)
	if err != nil {
		return refused(attest.Fail(attest.QuoteMalformed, err.Error()))
	}
	v, failures := quote.Verify(q, quote.Expected{AK: who.AK, Nonce: []byte(st.Quote.Nonce), Selection: selectionOf(st.Quote)})
	if !v.Valid() {
		return refused(failures...)
	}
	if missing := appraisal.Needs(who.Policies).Mask &^ st.Quote.Mask; missing != 0 {
		return judgement{again: true} // the new policies need PCRs that were not quoted
	}
	e := Answered{Now: st.Quote.At, Request: Request{Nonce: st.Quote.Nonce, Selection: selectionOf(st.Quote)},
		Answer: Answer{Quote: st.Quote.Packed, List: st.List, HasList: st.List != nil, BootLog: st.BootLog}}
	return appraise(startOf(s), who, e, v, judgement{accepted: true, boot: s.Boot})
}

// Lifetime of a nonce: an answer that takes longer is dropped by the driver.
const nonceLifetime = 60 * time.Second

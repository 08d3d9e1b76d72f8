package verifier

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/verifier/machine"
)

// endorsersAge is for how long what endorses TPMs is not read again: all nodes share one reading.
const endorsersAge = 5 * time.Second

// endorsers are what endorses TPMs as it is now, read from time to time.
type endorsers struct {
	roots RootStore
	keys  KeyStore

	mu     sync.Mutex
	read   time.Time
	byRoot map[attest.Digest]Root
	byKey  map[attest.AgentID]bool
}

// word is whether the word that a node was enrolled by still holds: not where its root was removed, or its EK is listed no longer. It does where
// the EK is accepted in another way now, and for a first use, which rests on no such word. An error says that it could not be found out.
func (e *endorsers) word(ctx context.Context, n Node, now time.Time) (machine.Word, error) {
	if e.roots == nil || e.keys == nil || n.Enrolment.FirstUse {
		return machine.Counts(), nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if age := now.Sub(e.read); e.byRoot == nil || age >= endorsersAge || age < 0 {
		if err := e.load(ctx); err != nil {
			return machine.Word{}, err
		}
		e.read = now
	}
	ek, err := endorsement.ParseEK(n.Enrolment.EK)
	if err != nil {
		return machine.Word{}, fmt.Errorf("enrolled endorsement key: %w", err)
	}
	if e.byKey[ek.ID()] {
		return machine.Counts(), nil
	}
	why := e.lost(n)
	if why == "" {
		return machine.Counts(), nil
	}
	return machine.Doubted(attest.Fail(attest.EkNotEndorsed, why)), nil
}

func (e *endorsers) lost(n Node) string {
	by := n.Enrolment
	if by.EndorsedBy == "" {
		return "The endorsement key was enrolled because a person had listed it, and is listed no longer."
	}
	root, found := e.byRoot[by.EndorsedRoot]
	if by.EndorsedRoot.IsZero() { // enrolled by a version that did not keep the fingerprint
		for _, r := range e.byRoot {
			if r.Subject == by.EndorsedBy {
				return ""
			}
		}
	}
	switch {
	case !found:
		return fmt.Sprintf("The TPM is endorsed by %.200q (%s), which is accepted no longer.", by.EndorsedBy, by.EndorsedRoot)
	case root.Emulated && !by.Emulated && !slices.Contains(n.Assignment.EndorsedBy, by.EndorsedRoot):
		return fmt.Sprintf("The TPM is endorsed by %.200q (%s), which counts as a root of emulators by now and has to be named by the node's assignment.", by.EndorsedBy, by.EndorsedRoot)
	}
	return ""
}

func (e *endorsers) load(ctx context.Context) error {
	roots, err := e.roots.Roots(ctx)
	if err != nil {
		return fmt.Errorf("read vendor roots: %w", err)
	}
	keys, err := e.keys.Keys(ctx)
	if err != nil {
		return fmt.Errorf("read listed endorsement keys: %w", err)
	}
	e.byRoot, e.byKey = make(map[attest.Digest]Root), make(map[attest.AgentID]bool)
	for _, r := range roots {
		r.PEM = nil
		e.byRoot[r.Fingerprint] = r
	}
	for _, k := range keys {
		e.byKey[k.EK] = true
	}
	return nil
}

// RestOnRoot is how many nodes were enrolled by the word of a root: those that fail when it is taken back.
func (v *Verifier) RestOnRoot(fingerprint attest.Digest) (nodes int) {
	return v.distrusts(func(e Enrolment) bool { return e.EndorsedRoot == fingerprint })
}

// RestOnKey is how many nodes were enrolled because their EK is listed.
func (v *Verifier) RestOnKey(listed attest.AgentID) (nodes int) {
	return v.distrusts(func(e Enrolment) bool {
		ek, err := endorsement.ParseEK(e.EK)
		return err == nil && ek.ID() == listed && e.EndorsedBy == ""
	})
}

func (v *Verifier) distrusts(picks func(Enrolment) bool) (nodes int) {
	v.each(func(n Node) {
		if !n.Enrolment.FirstUse && picks(n.Enrolment) {
			nodes++
		}
	})
	return nodes
}

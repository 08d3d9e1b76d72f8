package nodes

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/client"
)

const (
	// connectPause is between two looks for a server that there is no connection to yet. They ask nobody.
	connectPause = 500 * time.Millisecond
	// startPatience is how long after the start nothing is said of Nodes and policies before the server is heard: a start would otherwise write "unreachable"
	// into everything, and take it back a moment later.
	startPatience = 20 * time.Second
	// gatherPause follows each reading of what was told, so that a burst is read together. The first of it is read at once.
	gatherPause = 200 * time.Millisecond
	// A few machines are read again one by one; of more, everything is read at once, in pages.
	fewMachines, fewOf = 32, 20
)

// Start reads until ctx ends: every while, and what the server tells of in between.
func (v *View) Start(ctx context.Context) error {
	var working sync.WaitGroup
	heard := newHeard()
	working.Go(func() { v.watch(ctx, heard) })
	working.Go(func() { v.rereads(ctx, heard) })
	defer working.Wait()
	patience := time.NewTimer(startPatience)
	defer patience.Stop()
	for {
		pause, err := v.interval, v.Refresh(ctx)
		switch {
		case errors.Is(err, ErrNotConnected):
			pause = min(pause, connectPause)
		case err != nil && ctx.Err() == nil:
			v.log.Warn("read the server", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-patience.C:
			v.endPatience()
		case <-time.After(pause):
		}
	}
}

// starting reports whether the server has not been heard since the start, which is not long ago. Everything is looked at again when that ends.
func (v *View) starting() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.patient && !v.connected
}

func (v *View) endPatience() {
	v.mu.Lock()
	waited := v.patient && !v.connected
	v.patient = false
	v.mu.Unlock()
	if waited {
		v.log.Warn("the server was not heard yet", "within", startPatience)
		v.changed([]string{AllNodes})
	}
}

// heard are machines of which a transition was told and that have not been read again yet. Telling never waits for reading, so that the server does not
// cut off a watcher that is too slow; what comes meanwhile is read together.
type heard struct {
	mu    sync.Mutex
	all   bool
	ids   map[attest.AgentID]struct{}
	awake chan struct{}
}

func newHeard() *heard {
	return &heard{ids: map[attest.AgentID]struct{}{}, awake: make(chan struct{}, 1)}
}

func (h *heard) note(ids ...attest.AgentID) {
	h.mu.Lock()
	h.all = h.all || len(ids) == 0
	for _, id := range ids {
		h.ids[id] = struct{}{}
	}
	h.mu.Unlock()
	select {
	case h.awake <- struct{}{}:
	default:
	}
}

// everything notes that something may have been missed.
func (h *heard) everything() { h.note() }

func (h *heard) take() (ids []attest.AgentID, all bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.ids {
		ids = append(ids, id)
	}
	all, h.all = h.all, false
	clear(h.ids)
	return ids, all
}

// watch notes the machines whose verdict changes. A new connection tells nothing of what happened before it.
func (v *View) watch(ctx context.Context, h *heard) {
	for ctx.Err() == nil {
		pause := v.interval / 2
		server, err := v.connect()
		switch {
		case err == nil:
			err = server.Watch(ctx, h.everything, func(t api.Transition) error {
				h.note(t.Node)
				return nil
			})
		case errors.Is(err, ErrNotConnected):
			pause = min(pause, connectPause)
		}
		v.log.Debug("watch ended", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// rereads reads what was noted. What it cannot read the next full reading finds.
func (v *View) rereads(ctx context.Context, h *heard) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.awake:
		}
		ids, all := h.take()
		read := func() error { return v.reread(ctx, ids) }
		if all || len(ids) > v.few() {
			read = func() error { return v.Refresh(ctx) }
		}
		if err := read(); err != nil && ctx.Err() == nil {
			v.log.Debug("read again", "machines", len(ids), "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(gatherPause):
		}
	}
}

// few is the number of machines up to which reading them one by one costs less than reading all.
func (v *View) few() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return max(fewMachines, len(v.machines)/fewOf)
}

// reread reads some machines and the open reactions.
func (v *View) reread(ctx context.Context, ids []attest.AgentID) error {
	server, err := v.connect()
	if err != nil {
		return err
	}
	v.reading.Lock()
	defer v.reading.Unlock()
	var found []api.Node
	for _, id := range ids {
		node, err := server.Node(ctx, id)
		if client.NotFound(err) {
			continue // removed meanwhile, which the next full reading shows
		} else if err != nil {
			return err
		}
		found = append(found, node)
	}
	open, err := server.Reactions(ctx, api.ReactionStateOpen)
	if err != nil {
		return err
	}
	v.mu.Lock()
	var names []string
	for _, node := range found {
		names = append(names, v.takeMachine(node)...)
	}
	names = append(names, v.takeReactions(open)...)
	v.mu.Unlock()
	v.changed(names)
	return nil
}

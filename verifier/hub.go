package verifier

import (
	"sync"

	"github.com/assay-project/assay/verifier/machine"
)

// hubBuffer is how many transitions a slow watcher may lag behind before it is cut off; it then reads the list again.
const hubBuffer = 256

// hub hands transitions to those who watch.
type hub struct {
	mu       sync.Mutex
	closed   bool
	watchers map[chan machine.Transition]struct{}
}

func newHub() *hub { return &hub{watchers: make(map[chan machine.Transition]struct{})} }

// watch returns a channel of transitions; it is closed when the watcher is too slow. stop must be called.
func (h *hub) watch() (events <-chan machine.Transition, stop func()) {
	ch := make(chan machine.Transition, hubBuffer)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(ch)
		return ch, func() {}
	}
	h.watchers[ch] = struct{}{}
	return ch, func() { h.drop(ch) }
}

func (h *hub) drop(ch chan machine.Transition) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.watchers[ch]; ok {
		delete(h.watchers, ch)
		close(ch)
	}
}

func (h *hub) send(t machine.Transition) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.watchers {
		select {
		case ch <- t:
		default:
			delete(h.watchers, ch)
			close(ch)
		}
	}
}

// close ends all watching, so that a server that drains is not held up.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for ch := range h.watchers {
		delete(h.watchers, ch)
		close(ch)
	}
}

package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	// maxStreams bounds the streams of events at once of one client, by role and name: each holds a connection and a queue. All instances of an
	// operator, or all windows of a person, are one client.
	maxStreams = 32
	// writeWithin is how long an event may take to be sent.
	writeWithin = 30 * time.Second
)

var errTooManyStreams = errors.New("too many streams of events")

// streams counts the open streams of each client.
type streams struct {
	mu   sync.Mutex
	open map[caller]int
}

// enter counts a stream; leave must be called when it ends.
func (s *streams) enter(c caller) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[c] >= maxStreams {
		return nil, fmt.Errorf("%w: %s (%s) has %d open already; end one first", errTooManyStreams, c.name, c.role, maxStreams)
	}
	s.open[c]++
	return func() { s.leave(c) }, nil
}

func (s *streams) leave(c caller) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[c]--; s.open[c] == 0 {
		delete(s.open, c)
	}
}

// watchSilence is the pause after which a watcher gets a comment, so that both sides learn of a broken connection.
const watchSilence = 15 * time.Second

// watch streams transitions as server-sent events named "transition". A watcher that lags is cut off and reads the lists again; so is
// one whose certificate is no longer good.
func (a *API) watch(w http.ResponseWriter, r *http.Request, c caller) error {
	leave, err := a.streams.enter(c)
	if err != nil {
		return err
	}
	defer leave()
	flush := http.NewResponseController(w)
	defer func() { _ = flush.SetWriteDeadline(time.Time{}) }() // the connection may be used again
	events, stop := a.cfg.Verifier.Watch()
	defer stop()
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	alive := time.NewTicker(watchSilence)
	defer alive.Stop()
	text := ": watching\n\n"
	for {
		_ = flush.SetWriteDeadline(time.Now().Add(writeWithin)) // one that does not read is no watcher
		if _, err := fmt.Fprint(w, text); err != nil {
			return nil // the watcher is gone
		}
		if err := flush.Flush(); err != nil {
			return nil
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-alive.C:
			text = ": still here\n\n"
			if _, _, ok := a.cfg.Clients.RoleOf(r.TLS); !ok {
				return nil
			}
		case t, ok := <-events:
			if !ok {
				return nil
			}
			body, err := json.Marshal(transitionView(t))
			if err != nil {
				a.cfg.Log.Error("encode transition", "node", t.Node, "err", err)
				return nil
			}
			text = fmt.Sprintf("id: %s/%d\nevent: transition\ndata: %s\n\n", t.Node, t.Seq, body)
		}
	}
}

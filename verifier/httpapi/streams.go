package httpapi

import (
	"errors"
	"fmt"
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

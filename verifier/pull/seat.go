package pull

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// seat is one of the places for big answers, or none: the nil seat and one that is not held release nothing.
type seat struct {
	all  chan struct{} // holds a token for each place that is taken
	held atomic.Bool
}

// take waits for a place until ended.
func (s *seat) take(ended <-chan struct{}) bool {
	select {
	case s.all <- struct{}{}:
		s.held.Store(true)
		return true
	case <-ended:
		return false
	}
}

// release gives the place back, once.
func (s *seat) release() {
	if s != nil && s.held.CompareAndSwap(true, false) {
		<-s.all
	}
}

// meteredBody reads an answer; beyond its free bytes it needs a place, and has to come at a pace from then on.
type meteredBody struct {
	ended <-chan struct{} // the round is over
	body  io.Reader
	seat  *seat
	free  int

	grace time.Duration
	cut   func() // ends the request
	timer *time.Timer
	began time.Time
	read  int64 // since it has the place
}

// Read implements io.Reader. Waiting for a place ends with the round.
func (m *meteredBody) Read(p []byte) (int, error) {
	if m.free == 0 && m.timer == nil {
		if !m.seat.take(m.ended) {
			return 0, fmt.Errorf("no place for an answer of more than %d bytes became free: %w", freeAnswerBytes, context.DeadlineExceeded)
		}
		m.began = time.Now()
		m.timer = time.AfterFunc(m.grace, m.cut)
	}
	if m.timer == nil {
		n, err := m.body.Read(p[:min(len(p), m.free)])
		m.free -= n
		return n, err
	}
	n, err := m.body.Read(p)
	m.read += int64(n)
	allowed := m.grace + time.Duration(float64(m.read)/placeRate*float64(time.Second))
	left := allowed - time.Since(m.began)
	if left <= 0 {
		return n, fmt.Errorf("an answer of more than %d bytes came slower than %d bytes a second: %w", freeAnswerBytes, placeRate, context.DeadlineExceeded)
	}
	m.timer.Reset(left)
	return n, err
}

// arrived ends the pace: nothing more is read.
func (m *meteredBody) arrived() {
	if m.timer != nil {
		m.timer.Stop()
	}
}

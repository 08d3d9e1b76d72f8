package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

const qmpPatience = 30 * time.Second

// ErrQMP is in errors that QEMU reported itself.
var ErrQMP = errors.New("QEMU")

// A qmp speaks QEMU's machine protocol (docs/interop/qmp-spec.txt): JSON objects, one answer per command, events in between.
// Commands are sent one at a time.
type qmp struct {
	to      io.Writer
	answers chan qmpMessage
	ended   chan struct{} // closed when QEMU says no more
}

type qmpMessage struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Description string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
}

// newQMP reads messages until from ends. It calls event with the name of each event, in a goroutine of its own.
func newQMP(to io.Writer, from io.Reader, event func(name string)) *qmp {
	q := &qmp{to: to, answers: make(chan qmpMessage, 4), ended: make(chan struct{})}
	go func() {
		defer close(q.ended)
		defer close(q.answers)
		dec := json.NewDecoder(from)
		for {
			var m qmpMessage
			if err := dec.Decode(&m); err != nil {
				return
			}
			if m.Event != "" {
				event(m.Event)
				continue
			}
			q.answers <- m
		}
	}()
	return q
}

// greet leaves the negotiation mode in which QMP begins.
func (q *qmp) greet() error {
	m, err := q.next()
	if err != nil {
		return fmt.Errorf("qmp greeting: %w", err)
	}
	if m.Greeting == nil {
		return fmt.Errorf("qmp greeting: %w said something else", ErrQMP)
	}
	return q.execute("qmp_capabilities", nil)
}

func (q *qmp) execute(command string, args map[string]any) error {
	msg := map[string]any{"execute": command}
	if args != nil {
		msg["arguments"] = args
	}
	if err := json.NewEncoder(q.to).Encode(msg); err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	m, err := q.next()
	if err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	if m.Error != nil {
		return fmt.Errorf("qmp %s: %w: %s", command, ErrQMP, m.Error.Description)
	}
	return nil
}

func (q *qmp) next() (qmpMessage, error) {
	select {
	case m, ok := <-q.answers:
		if !ok {
			return m, fmt.Errorf("%w is gone", ErrQMP)
		}
		return m, nil
	case <-time.After(qmpPatience):
		return qmpMessage{}, fmt.Errorf("%w did not answer within %v", ErrQMP, qmpPatience)
	}
}

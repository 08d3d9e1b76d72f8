package agent

import (
	"net"
	"sync"
)

// limited is a listener with a bound on its open connections: those beyond it wait in the kernel's queue.
type limited struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newLimited(listener net.Listener, most int) *limited {
	return &limited{Listener: listener, slots: make(chan struct{}, most), closed: make(chan struct{})}
}

// Accept waits for a slot and a connection.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &slotted{Conn: conn, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

// Close ends Accept, also one that waits for a slot.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// slotted is a connection that gives its slot back.
type slotted struct {
	net.Conn
	release func()
}

// Close closes the connection, once or more often.
func (c *slotted) Close() error {
	defer c.release()
	return c.Conn.Close()
}

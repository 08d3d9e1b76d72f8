package agent

import (
	"errors"
	"net"
	"testing"
	"time"
)

func TestLimitedListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := newLimited(inner, 1)
	type accepted struct {
		conn net.Conn
		err  error
	}
	accept := func() <-chan accepted {
		result := make(chan accepted, 1)
		go func() {
			conn, err := listener.Accept()
			result <- accepted{conn, err}
		}()
		return result
	}
	for range 2 {
		conn, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	first := <-accept()
	if first.err != nil {
		t.Fatal(first.err)
	}
	waiting := accept()
	select {
	case <-waiting:
		t.Fatal("a second connection is accepted beyond the limit")
	case <-time.After(50 * time.Millisecond):
	}
	for range 2 { // a second Close gives no second slot
		_ = first.conn.Close()
	}
	second := <-waiting
	if second.err != nil {
		t.Fatal(second.err)
	}
	blocked := accept()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-blocked; !errors.Is(got.err, net.ErrClosed) {
		t.Errorf("error %v for an Accept at the limit when the listener closes", got.err)
	}
	if err := second.conn.Close(); err != nil {
		t.Error(err)
	}
}

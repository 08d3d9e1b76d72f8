package serve

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/assay-project/assay/internal/httpjson"
)

// dialFrom connects from an address of the loopback.
func dialFrom(t *testing.T, from string, to net.Addr) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	conn, err := dialer.DialContext(t.Context(), "tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// ended reports whether the other side closed a connection.
func ended(t *testing.T, conn net.Conn, within time.Duration) bool {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Read(make([]byte, 1))
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// One address holds every place and loses one to whoever comes from another; it gets no further one itself.
func TestConnectionsAreSharedOut(t *testing.T) {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	limit := newConnections(4, slog.New(slog.NewTextHandler(&log, nil)))
	listener := limit.listener(plain)
	defer listener.Close()
	accepted := make(chan net.Conn, 16)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	accept := func() net.Conn {
		t.Helper()
		select {
		case conn := <-accepted:
			return conn
		case <-time.After(10 * time.Second):
			t.Fatal("no connection was accepted")
			return nil
		}
	}
	var flood []net.Conn
	for range 4 {
		flood = append(flood, dialFrom(t, "127.0.0.2", plain.Addr()))
		defer accept().Close()
	}
	if one := dialFrom(t, "127.0.0.2", plain.Addr()); !ended(t, one, 10*time.Second) {
		t.Error("one address has more than all places")
	}
	other := dialFrom(t, "127.0.0.3", plain.Addr())
	kept := accept()
	if !ended(t, flood[0], 10*time.Second) {
		t.Error("the oldest of the crowded address is still open")
	}
	if ended(t, other, 50*time.Millisecond) || ended(t, flood[3], 50*time.Millisecond) {
		t.Error("a connection with a place was closed")
	}
	if err := kept.Close(); err != nil {
		t.Fatal(err)
	}
	kept.Close() // frees nothing twice
	again := dialFrom(t, "127.0.0.2", plain.Addr())
	defer accept().Close()
	if ended(t, again, 50*time.Millisecond) || limit.all != 4 {
		t.Errorf("a place that was freed is not given away; %d are counted", limit.all)
	}
	if n := strings.Count(log.String(), "limit=4"); n != 1 {
		t.Errorf("%d warnings in a second:\n%s", n, &log)
	}
}

func TestConnectionLimit(t *testing.T) {
	if n := connectionLimit(); n < leastConnections || n > mostConnections {
		t.Errorf("%d connections", n)
	}
}

func TestPrefixOf(t *testing.T) {
	for address, want := range map[string]string{"192.0.2.1:1": "192.0.2.1/32", "[::ffff:192.0.2.1]:1": "192.0.2.1/32", "[2001:db8::1%eth0]:1": "2001:db8::/64"} {
		if got := prefixOf(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))); got.String() != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
	if got := prefixOf(&net.UnixAddr{}); got.IsValid() {
		t.Errorf("no address: %s", got)
	}
}

// A body that trickles is refused, and its connection closed; one that comes at once is answered on the same port.
func TestSlowBodyIsRefused(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := port{name: "test", listener: listener, pace: httpjson.Pace{Grace: 200 * time.Millisecond, BytesPerSecond: 1 << 20}}
	p.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body any
		if err := httpjson.Decode(r.Body, 100, &body); err != nil {
			status, _ := httpjson.StatusOf(err)
			w.WriteHeader(status)
		}
	})
	s := &server{log: slog.New(slog.DiscardHandler)}
	group, ctx := errgroup.WithContext(t.Context())
	p.serve(ctx, group, s)
	answer := func(pause time.Duration) string {
		conn := dialFrom(t, "127.0.0.1", listener.Addr())
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\n")
		go func() {
			for _, c := range `{"a":"bbbbbbbbbbbb"}` {
				if _, err := fmt.Fprint(conn, string(c)); err != nil {
					return
				}
				time.Sleep(pause)
			}
		}()
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		head := make([]byte, 12)
		if _, err := io.ReadFull(conn, head); err != nil {
			return err.Error()
		}
		return strings.TrimPrefix(string(head), "HTTP/1.1 ")
	}
	if got := answer(0); got != "200" {
		t.Errorf("at once: %s", got)
	}
	if got := answer(100 * time.Millisecond); got != "408" {
		t.Errorf("slowly: %s", got)
	}
}

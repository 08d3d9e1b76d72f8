package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// What a supervisor is asked, over a socket in the machine's folder: one JSON request and one answer per connection.
const (
	askStatus   = "status"
	askPowerCut = "power-cut"
	askLinkUp   = "link-up"
	askLinkDown = "link-down"
	askDown     = "down"
)

const controlPatience = 2 * time.Minute

// ErrNoSupervisor says that a machine's supervisor does not run, and so neither does the machine.
var ErrNoSupervisor = errors.New("the machine does not run")

type controlRequest struct {
	Ask string `json:"ask"`
}

type controlAnswer struct {
	Error string `json:"error,omitempty"`
	// Ended tells how QEMU ended, if it did.
	Ended string `json:"ended,omitempty"`
}

// shortPath names a file of dir by an open descriptor of it: the path of a Unix socket has 107 bytes at most.
func shortPath(dir *os.File, name string) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), name)
}

// ask sends one request to the supervisor of the machine in folder.
func ask(ctx context.Context, folder, what string) (controlAnswer, error) {
	answer, err := askSupervisor(ctx, folder, what)
	if err != nil {
		return answer, fmt.Errorf("%s of %s: %w", what, folder, err)
	}
	if answer.Error != "" {
		return answer, fmt.Errorf("%s of %s: %s", what, folder, answer.Error)
	}
	return answer, nil
}

func askSupervisor(ctx context.Context, folder, what string) (controlAnswer, error) {
	var answer controlAnswer
	dir, err := os.Open(folder)
	if err != nil {
		return answer, fmt.Errorf("%w: %w", ErrNoSupervisor, err)
	}
	defer dir.Close()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", shortPath(dir, controlSocket))
	if err != nil {
		return answer, fmt.Errorf("%w: %w", ErrNoSupervisor, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	conn.SetDeadline(time.Now().Add(controlPatience))
	if err := json.NewEncoder(conn).Encode(controlRequest{Ask: what}); err != nil {
		return answer, fmt.Errorf("ask: %w", err)
	}
	err = json.NewDecoder(conn).Decode(&answer)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		return answer, fmt.Errorf("%w: its supervisor ended", ErrNoSupervisor)
	}
	if err != nil {
		return answer, fmt.Errorf("read answer: %w", err)
	}
	return answer, nil
}

// A question is a request that waits for the supervisor's loop to answer it.
type question struct {
	ask   string
	reply chan controlAnswer
}

// serveControl turns connections into questions until l is closed.
func serveControl(l net.Listener, questions chan<- question) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(controlPatience))
			var req controlRequest
			if err := json.NewDecoder(conn).Decode(&req); err != nil {
				return
			}
			q := question{ask: req.Ask, reply: make(chan controlAnswer, 1)}
			questions <- q
			json.NewEncoder(conn).Encode(<-q.reply)
		}()
	}
}

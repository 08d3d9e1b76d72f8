package leash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	socketName      = "control.sock"
	requestPatience = 10 * time.Second // for the one line that a client sends
	answerPatience  = 2 * time.Second  // for a client that does not take its answer
	maxMessageBytes = 1 << 20
)

// ErrNotRunning says that nobody answers in a folder: its supervisor, and so what it held, is gone.
var ErrNotRunning = errors.New("not running")

// A Request is what a supervisor is asked: a verb of its own and what it is about.
type Request struct {
	Ask string `json:"ask"`
	Arg string `json:"arg,omitempty"`
}

type answer struct {
	Error string `json:"error,omitempty"`
	Text  string `json:"text,omitempty"`
}

// A Question is a request that waits for the supervisor. Reply must be called once.
type Question struct {
	Request
	reply chan answer
}

// Reply answers the question; with an error the asker gets its text.
func (q Question) Reply(text string, err error) {
	a := answer{Text: text}
	if err != nil {
		a.Error = err.Error()
	}
	q.reply <- a
}

// A Listener takes the requests for the supervisor of a folder.
type Listener struct {
	Questions <-chan Question
	socket    net.Listener
	done      chan struct{}
	talks     sync.WaitGroup
}

// Listen opens the socket in folder.
func Listen(folder string) (*Listener, error) {
	dir, err := os.Open(folder)
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", folder, err)
	}
	defer dir.Close()
	socket, err := net.Listen("unix", shortPath(dir))
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", folder, err)
	}
	questions := make(chan Question)
	l := &Listener{Questions: questions, socket: socket, done: make(chan struct{})}
	l.talks.Go(func() { l.accept(questions) })
	return l, nil
}

// Close ends the listener, once. An answer that was given before is sent, at the latest within some seconds; whoever still waits for one gets none.
func (l *Listener) Close() error {
	close(l.done)
	err := l.socket.Close()
	l.talks.Wait()
	return err
}

func (l *Listener) accept(questions chan<- Question) {
	for {
		conn, err := l.socket.Accept()
		if err != nil {
			return
		}
		l.talks.Go(func() { l.converse(conn, questions) })
	}
}

func (l *Listener) converse(conn net.Conn, questions chan<- Question) {
	defer conn.Close()
	request, ok := l.read(conn)
	if !ok {
		return
	}
	q := Question{Request: request, reply: make(chan answer, 1)}
	select {
	case questions <- q:
	case <-l.done:
		return
	}
	select {
	case a := <-q.reply:
		a.send(conn)
	case <-l.done:
		select {
		case a := <-q.reply:
			a.send(conn)
		default:
		}
	}
}

// read takes the one request of a connection, unless the listener ends first.
func (l *Listener) read(conn net.Conn) (r Request, ok bool) {
	conn.SetReadDeadline(time.Now().Add(requestPatience))
	taken := make(chan error, 1)
	var request Request
	go func() { taken <- json.NewDecoder(io.LimitReader(conn, maxMessageBytes)).Decode(&request) }()
	select {
	case err := <-taken:
		return request, err == nil
	case <-l.done:
		return r, false
	}
}

// send gives an answer to its asker. One that is gone needs none.
func (a answer) send(conn net.Conn) {
	conn.SetWriteDeadline(time.Now().Add(answerPatience))
	json.NewEncoder(conn).Encode(a)
}

// Serve is a supervisor's life: it has answer reply to questions until the supervisor is to end, which is when somebody asks it end, when it gets
// SIGTERM or SIGINT, and when its parent is gone without having let go of it (Watch its stdin). It returns the question that asked, for a reply when
// everything is down; nil if nobody asked.
func (l *Listener) Serve(end string, answer func(Request) (string, error)) *Question {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	parent := Watch(os.Stdin)
	for {
		select {
		case <-signals:
			return nil
		case detached := <-parent:
			if !detached {
				return nil
			}
		case q := <-l.Questions:
			if q.Ask == end {
				return &q
			}
			q.Reply(answer(q.Request))
		}
	}
}

// shortPath names the socket by an open descriptor of its folder: the path of a Unix socket has 107 bytes at most.
func shortPath(dir *os.File) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), socketName)
}

// Ask sends one request to the supervisor of a folder and returns its answer. Where nobody listens, or the supervisor ends before it has
// answered, the error is ErrNotRunning.
func Ask(ctx context.Context, folder string, r Request) (string, error) {
	a, err := converse(ctx, folder, r)
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err != nil {
		return "", fmt.Errorf("%s of %s: %w", r.Ask, folder, err)
	}
	return a.Text, nil
}

func converse(ctx context.Context, folder string, r Request) (answer, error) {
	dir, err := os.Open(folder)
	if err != nil {
		return answer{}, fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	defer dir.Close()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", shortPath(dir))
	if err != nil {
		return answer{}, fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return answer{}, fmt.Errorf("ask: %w", err)
	}
	var a answer
	err = json.NewDecoder(io.LimitReader(conn, maxMessageBytes)).Decode(&a)
	switch {
	case ctx.Err() != nil:
		return answer{}, ctx.Err()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return answer{}, fmt.Errorf("%w: its supervisor ended", ErrNotRunning)
	case err != nil:
		return answer{}, fmt.Errorf("read answer: %w", err)
	}
	return a, nil
}

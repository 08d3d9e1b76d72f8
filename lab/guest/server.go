package guest

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	authTimeout  = 30 * time.Second
	aliveEvery   = 5 * time.Second
	pipeLinger   = 2 * time.Second // how long a child that outlives its parent may hold the pipes
	maxExecConns = 64
)

// A Server is the exec service: it runs commands, moves files and reboots for whoever knows Key.
type Server struct {
	Key []byte
	// Power is asked to end the machine's run; nil refuses.
	Power func(op string) error
}

// Run serves connections of l until l is closed.
func (s *Server) Run(l net.Listener) error {
	slots := make(chan struct{}, maxExecConns)
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			defer conn.Close()
			s.converse(conn)
		}()
	}
}

// converse answers one request. Its errors end the connection, which is all that a client without the key may learn.
func (s *Server) converse(conn net.Conn) {
	in, out := bufio.NewReader(conn), &frameWriter{w: conn}
	conn.SetDeadline(time.Now().Add(authTimeout))
	if err := s.admit(conn, in); err != nil {
		return
	}
	k, payload, err := readFrame(in)
	if err != nil || k != kindRequest {
		return
	}
	conn.SetDeadline(time.Time{})
	var req request
	if err := json.Unmarshal(payload, &req); err != nil {
		out.sendJSON(kindResult, result{Exit: -1, Error: err.Error()})
		return
	}
	stop := keepAlive(out)
	defer stop()
	exit, err := s.perform(req, in, out)
	res := result{Exit: exit}
	if err != nil {
		res = result{Exit: -1, Error: err.Error()}
	}
	out.sendJSON(kindResult, res)
}

func (s *Server) admit(conn io.Writer, in io.Reader) error {
	nonce := make([]byte, nonceBytes)
	rand.Read(nonce)
	if _, err := conn.Write(nonce); err != nil {
		return fmt.Errorf("send nonce: %w", err)
	}
	answer := make([]byte, sha256.Size)
	if _, err := io.ReadFull(in, answer); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if !hmac.Equal(answer, authenticate(s.Key, nonce)) {
		return errors.New("wrong key")
	}
	return nil
}

// keepAlive tells a silent client that the machine still runs, until the returned function is called.
func keepAlive(out *frameWriter) (stop func()) {
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(aliveEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				out.send(kindAlive, nil)
			}
		}
	}()
	return func() { close(done) }
}

func (s *Server) perform(req request, in *bufio.Reader, out *frameWriter) (int, error) {
	switch req.Op {
	case opExec:
		return runCommand(req, in, out)
	case opRead:
		return 0, sendFile(req.Path, out)
	case opWrite:
		return 0, receiveFile(req, in)
	case opReboot, opPowerOff:
		if s.Power == nil {
			return 0, errors.New("this server has no power switch")
		}
		return 0, s.Power(req.Op)
	}
	return 0, fmt.Errorf("unknown operation %q", req.Op)
}

// runCommand runs one command in a session of its own. A client that goes away takes the session with it.
func runCommand(req request, in *bufio.Reader, out *frameWriter) (int, error) {
	if len(req.Args) == 0 {
		return 0, errors.New("no command")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cmd := exec.CommandContext(ctx, req.Args[0], req.Args[1:]...)
	if err := asUser(cmd, req.User); err != nil {
		return 0, err
	}
	cmd.Env = append(cmd.Env, req.Env...)
	cmd.SysProcAttr.Setsid = true
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = pipeLinger
	cmd.Stdout, cmd.Stderr = stream{out, kindOutput}, stream{out, kindError}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 0, fmt.Errorf("run %s: %w", req.Args[0], err)
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("run %s: %w", req.Args[0], err)
	}
	go func() {
		// The client's side of the connection stays open until it has the result: its end means that the client is gone.
		copyInput(in, stdin)
		stdin.Close()
		if _, _, err := readFrame(in); err != nil {
			cancel()
		}
	}()
	return exitCode(cmd.Wait())
}

// exitCode follows the shells: 128 plus the signal's number for a killed process.
func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return 0, nil
	case !errors.As(err, &exit):
		return 0, fmt.Errorf("wait: %w", err)
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}

// copyInput writes the input frames to w until the client ends them. What w refuses is read and dropped: a command need not read its input.
func copyInput(in *bufio.Reader, w io.Writer) error {
	var refused error
	for {
		k, payload, err := readFrame(in)
		if err != nil {
			return err
		}
		if k != kindInput {
			return fmt.Errorf("%w: kind %q instead of input", ErrFrame, byte(k))
		}
		if len(payload) == 0 {
			return refused
		}
		if refused == nil {
			_, refused = w.Write(payload)
		}
	}
}

func sendFile(path string, out *frameWriter) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(stream{out, kindOutput}, f)
	return err
}

// receiveFile replaces a file in one step, so that neither a power cut nor a running copy of the program stands in the way.
func receiveFile(req request, in *bufio.Reader) error {
	f, err := os.CreateTemp(filepath.Dir(req.Path), ".lab-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := copyInput(in, f); err != nil {
		return err
	}
	if err := f.Chmod(os.FileMode(req.Mode).Perm()); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), req.Path)
}

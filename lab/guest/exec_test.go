package guest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// serve runs a Server on loopback and returns a client of it.
func serve(t *testing.T, s *Server) Client {
	t.Helper()
	s.Key = []byte("the machine's key")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(l) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-ended; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	return Client{Addr: l.Addr().String(), Key: s.Key}
}

func TestExecExitCodesAndStreams(t *testing.T) {
	c := serve(t, &Server{})
	tests := map[string]struct {
		cmd            Command
		exit           int
		stdout, stderr string
	}{
		"success":         {Command{Args: []string{"true"}}, 0, "", ""},
		"failure":         {Command{Args: []string{"sh", "-c", "exit 7"}}, 7, "", ""},
		"killed":          {Command{Args: []string{"sh", "-c", "kill -9 $$"}}, 137, "", ""},
		"streams apart":   {Command{Args: []string{"sh", "-c", "echo out; echo err >&2"}}, 0, "out\n", "err\n"},
		"input":           {Command{Args: []string{"cat"}, Stdin: strings.NewReader("in\x00put")}, 0, "in\x00put", ""},
		"no input":        {Command{Args: []string{"cat"}}, 0, "", ""},
		"input unread":    {Command{Args: []string{"true"}, Stdin: strings.NewReader(strings.Repeat("x", 1<<20))}, 0, "", ""},
		"environment":     {Command{Args: []string{"sh", "-c", "echo $COLOUR $HOME"}, Env: []string{"COLOUR=red"}}, 0, "red /root\n", ""},
		"background left": {Command{Args: []string{"sh", "-c", "sleep 60 & echo gone"}}, 0, "gone\n", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			tt.cmd.Stdout, tt.cmd.Stderr = &stdout, &stderr
			exit, err := c.Exec(t.Context(), tt.cmd)
			if err != nil {
				t.Fatal(err)
			}
			got := []any{exit, stdout.String(), stderr.String()}
			if diff := cmp.Diff([]any{tt.exit, tt.stdout, tt.stderr}, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestExecReportsWhatCouldNotRun(t *testing.T) {
	c := serve(t, &Server{})
	tests := map[string]Command{
		"no such program": {Args: []string{"/no/such/program"}},
		"no command":      {},
		"no such user":    {Args: []string{"true"}, User: "nobody-of-that-name"},
	}
	for name, cmd := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := c.Exec(t.Context(), cmd); !errors.Is(err, ErrGuest) {
				t.Errorf("got %v, want ErrGuest", err)
			}
		})
	}
}

func TestLargeStreamsAreCarriedWhole(t *testing.T) {
	c := serve(t, &Server{})
	data := make([]byte, 5<<20+17)
	rand.Read(data)
	var out bytes.Buffer
	exit, err := c.Exec(t.Context(), Command{Args: []string{"cat"}, Stdin: bytes.NewReader(data), Stdout: &out})
	if err != nil || exit != 0 {
		t.Fatalf("exit %d, %v", exit, err)
	}
	if !bytes.Equal(out.Bytes(), data) {
		t.Errorf("%d bytes came back of %d, or others", out.Len(), len(data))
	}
}

// The command's whole session dies with the client.
func TestCancelKillsTheCommand(t *testing.T) {
	c := serve(t, &Server{})
	ctx, cancel := context.WithCancel(t.Context())
	alive := filepath.Join(t.TempDir(), "alive")
	started, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(ctx, Command{Args: []string{"sh", "-c", "echo started; (sleep 1; touch " + alive + ") & wait"}, Stdout: out})
		done <- err
	}()
	if _, err := bufio.NewReader(started).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	time.Sleep(1500 * time.Millisecond)
	if _, err := os.Stat(alive); err == nil {
		t.Error("the command's child went on")
	}
}

func TestFilesGoInAndOut(t *testing.T) {
	c := serve(t, &Server{})
	path := filepath.Join(t.TempDir(), "file with space")
	data := make([]byte, 300_001)
	rand.Read(data)
	if err := os.WriteFile(path, []byte("old and shorter"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteFile(t.Context(), path, 0o751, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o751 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	var back bytes.Buffer
	if err := c.ReadFile(t.Context(), path, &back); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back.Bytes(), data) {
		t.Error("the file changed on its way")
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("%d files in the folder, want 1 (%v)", len(left), err)
	}
}

func TestFileErrorsComeFromTheMachine(t *testing.T) {
	c := serve(t, &Server{})
	missing := filepath.Join(t.TempDir(), "no", "such")
	if err := c.WriteFile(t.Context(), missing, 0o644, strings.NewReader("x")); !errors.Is(err, ErrGuest) {
		t.Errorf("write: %v", err)
	}
	if err := c.ReadFile(t.Context(), missing, io.Discard); !errors.Is(err, ErrGuest) || !strings.Contains(err.Error(), missing) {
		t.Errorf("read: %v", err)
	}
}

func TestPowerIsAsked(t *testing.T) {
	var asked []string
	c := serve(t, &Server{Power: func(op string) error { asked = append(asked, op); return nil }})
	if err := errors.Join(c.Reboot(t.Context()), c.PowerOff(t.Context())); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"reboot", "poweroff"}, asked); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	without := serve(t, &Server{})
	if err := without.Reboot(t.Context()); !errors.Is(err, ErrGuest) {
		t.Errorf("without a switch: %v", err)
	}
}

func TestWrongKeyRunsNothing(t *testing.T) {
	c := serve(t, &Server{})
	mark := filepath.Join(t.TempDir(), "ran")
	stranger := Client{Addr: c.Addr, Key: []byte("another key")}
	if _, err := stranger.Exec(t.Context(), Command{Args: []string{"touch", mark}}); err == nil {
		t.Error("a stranger was let in")
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a stranger's command ran")
	}
	if exit, err := c.Exec(t.Context(), Command{Args: []string{"touch", mark}}); err != nil || exit != 0 {
		t.Errorf("with the right key: %d, %v", exit, err)
	}
}

func TestServerRefusesUnknownOperation(t *testing.T) {
	c := serve(t, &Server{})
	if _, err := c.call(t.Context(), request{Op: "format"}, exchange{}); err == nil || !strings.Contains(err.Error(), `"format"`) {
		t.Errorf("got %v", err)
	}
}

func TestRequestsTooLargeAreRefusedBeforeSending(t *testing.T) {
	c := serve(t, &Server{})
	if _, err := c.Exec(t.Context(), Command{Args: []string{strings.Repeat("x", maxFrameBytes)}}); !errors.Is(err, ErrFrame) {
		t.Errorf("got %v, want ErrFrame", err)
	}
}

func TestReadFrameRefusesLength(t *testing.T) {
	tests := map[string]struct {
		data string
		ok   bool
	}{
		"empty frame":   {"O\x00\x00\x00\x00", true},
		"whole":         {"O\x00\x00\x00\x02hi", true},
		"cut":           {"O\x00\x00\x00\x03hi", false},
		"header cut":    {"O\x00\x00", false},
		"over the size": {"O\xff\xff\xff\xff", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, _, err := readFrame(bufio.NewReader(strings.NewReader(tt.data))); (err == nil) != tt.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("Q\x00\x00\x00\x02{}"))
	f.Add([]byte("O\xff\xff\xff\xff"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		k, payload, err := readFrame(bufio.NewReader(bytes.NewReader(data)))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := (&frameWriter{w: &again}).send(k, payload); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(data, again.Bytes()) {
			t.Errorf("%q became %q", data, again.Bytes())
		}
	})
}

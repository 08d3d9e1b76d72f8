package leash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// superviseFolder is set for a process that stands in for a supervisor.
const superviseFolder = "ASSAY_TEST_SUPERVISE"

// headlessMark is set for a process that ends its first thread and goes on.
const headlessMark = "ASSAY_TEST_HEADLESS"

func TestMain(m *testing.M) {
	if os.Getenv(headlessMark) != "" {
		beheaded()
	}
	if folder := os.Getenv(superviseFolder); folder != "" {
		supervise(folder)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// supervise answers until its parent is gone or it is asked to end; it removes its folder then, and says so last.
func supervise(folder string) {
	l, err := Listen(folder)
	if err != nil {
		panic(err)
	}
	asker := l.Serve("end", func(r Request) (string, error) {
		switch r.Ask {
		case "echo":
			return r.Arg, nil
		case "who":
			return strconv.Itoa(os.Getpid()), nil
		case "refuse":
			return "", errors.New("I refuse " + r.Arg)
		case "die":
			os.RemoveAll(folder)
			os.Exit(0)
		case "silence":
			time.Sleep(time.Second)
		}
		return "", nil
	})
	if err := os.RemoveAll(folder); err != nil {
		panic(err)
	}
	if asker != nil {
		asker.Reply("all is down", nil)
	}
	l.Close()
}

// start runs a supervisor in a folder of its own.
func start(t *testing.T) (*Child, string) {
	t.Helper()
	folder := filepath.Join(t.TempDir(), strings.Repeat("long", 30)) // longer than the path of a socket may be
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c, err := Start(t.Context(), []string{"/usr/bin/env", superviseFolder + "=" + folder, self}, filepath.Join(folder, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Pull)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if text, err := Ask(t.Context(), folder, Request{Ask: "echo", Arg: "hello"}); err == nil && text == "hello" {
			return c, folder
		} else if time.Now().After(end) {
			t.Fatalf("the supervisor says %q: %v", text, err)
		}
	}
}

// gone waits for the supervisor's end.
func gone(t *testing.T, c *Child, folder string) {
	t.Helper()
	select {
	case <-c.Ended():
	case <-time.After(20 * time.Second):
		t.Fatal("the supervisor still runs")
	}
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it left its folder: %v", err)
	}
	if _, err := Ask(t.Context(), folder, Request{Ask: "echo"}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("asking a supervisor that is gone: %v", err)
	}
}

func TestPull(t *testing.T) {
	c, folder := start(t)
	c.Pull()
	gone(t, c, folder)
}

func TestDetachedGoesOn(t *testing.T) {
	c, folder := start(t)
	if err := c.Detach(); err != nil {
		t.Fatal(err)
	}
	if err := c.Detach(); err != nil {
		t.Errorf("detached twice: %v", err)
	}
	c.Pull() // there is no leash any more
	time.Sleep(200 * time.Millisecond)
	if text, err := Ask(t.Context(), folder, Request{Ask: "echo", Arg: "there"}); err != nil || text != "there" {
		t.Errorf("%q, %v", text, err)
	}
	if text, err := Ask(t.Context(), folder, Request{Ask: "end"}); err != nil || text != "all is down" {
		t.Errorf("a supervisor that was asked to end says %q: %v", text, err)
	}
	gone(t, c, folder)
}

func TestEndWithoutAnswer(t *testing.T) {
	c, folder := start(t)
	if _, err := Ask(t.Context(), folder, Request{Ask: "die"}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a supervisor that ended before it answered: %v", err)
	}
	gone(t, c, folder)
}

// TestSignal: a supervisor that is let go of ends by SIGTERM.
func TestSignal(t *testing.T) {
	c, folder := start(t)
	if err := c.Detach(); err != nil {
		t.Fatal(err)
	}
	text, err := Ask(t.Context(), folder, Request{Ask: "who"})
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	gone(t, c, folder)
}

// TestLastAnswer: what was answered before Close is heard. With one processor, and a listener that waits for its question to be
// taken, it learns of both at a time.
func TestLastAnswer(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for range 200 {
		folder := t.TempDir()
		l, err := Listen(folder)
		if err != nil {
			t.Fatal(err)
		}
		heard := make(chan error, 1)
		go func() {
			text, err := Ask(t.Context(), folder, Request{Ask: "end"})
			if err == nil && text != "last" {
				err = fmt.Errorf("the answer is %q", text)
			}
			heard <- err
		}()
		time.Sleep(2 * time.Millisecond)
		q := <-l.Questions
		q.Reply("last", nil)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-heard; err != nil {
			t.Fatal(err)
		}
	}
}

// TestCloseIsBounded: neither an asker that says nothing, nor one that does not take its answer, nor one that has none yet keeps a listener.
func TestCloseIsBounded(t *testing.T) {
	folder := t.TempDir()
	l, err := Listen(folder)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, says := range []string{"", `{"ask":"much"}` + "\n", `{"ask":"never"}` + "\n"} {
		conn, err := net.Dial("unix", shortPath(dir))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, says); err != nil {
			t.Fatal(err)
		}
		if says == "" {
			continue
		}
		if q := <-l.Questions; q.Ask == "much" {
			q.Reply(strings.Repeat("much", 1<<20), nil)
		}
	}
	began := time.Now()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 4*answerPatience {
		t.Errorf("it took %v", took)
	}
}

// TestWatch: only the whole word lets a supervisor go on.
func TestWatch(t *testing.T) {
	for text, want := range map[string]bool{"detach\n": true, "detach": false, "detached\n": false, "": false, "\n": false} {
		if got := <-Watch(strings.NewReader(text)); got != want {
			t.Errorf("stdin %q: %v", text, got)
		}
	}
}

func TestRefusal(t *testing.T) {
	_, folder := start(t)
	if _, err := Ask(t.Context(), folder, Request{Ask: "refuse", Arg: "this"}); err == nil || !strings.Contains(err.Error(), "I refuse this") || errors.Is(err, ErrNotRunning) {
		t.Errorf("%v", err)
	}
}

// TestAskIsBounded: who waits may give up.
func TestAskIsBounded(t *testing.T) {
	_, folder := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Ask(ctx, folder, Request{Ask: "silence"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// TestNonsenseIsDropped: what is no request gets no answer and does no harm.
func TestNonsenseIsDropped(t *testing.T) {
	_, folder := start(t)
	dir, err := os.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	conn, err := net.Dial("unix", shortPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "not JSON\n"); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || len(answer) > 0 {
		t.Errorf("%q, %v", answer, err)
	}
	if text, err := Ask(t.Context(), folder, Request{Ask: "echo", Arg: "still"}); err != nil || text != "still" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestStartFails(t *testing.T) {
	if _, err := Start(t.Context(), []string{"/no/such/program"}, filepath.Join(t.TempDir(), "log")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, err := Start(t.Context(), []string{"/bin/true"}, "/no/such/folder/log"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestProcess(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	reused := Process{PID: p.PID, Start: p.Start + 1}
	if !p.Alive() || reused.Alive() || (Process{}).Alive() {
		t.Errorf("alive: %v, with another start: %v, none: %v", p.Alive(), reused.Alive(), (Process{}).Alive())
	}
	if err := reused.Kill(); err != nil || !p.Alive() {
		t.Errorf("a process was taken for one that had its number before: %v", err)
	}
	for end := time.Now().Add(20 * time.Second); !strings.Contains(Describe(p.PID), " S ") && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	if err := p.Await(20 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "(sleep) in ") || !strings.Contains(err.Error(), " S ") {
		t.Errorf("waiting for a running process: %v; want its name and its state", err)
	}
	go cmd.Wait()
	if err := p.Kill(); err != nil || p.Alive() {
		t.Errorf("%v", err)
	}
	if _, err := Identify(1 << 30); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// beheaded ends the first thread of this process, which shows as a zombie from then on, and waits.
func beheaded() {
	for {
		go func() {
			runtime.LockOSThread()
			if syscall.Gettid() == os.Getpid() {
				syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0)
			}
			select {}
		}()
		time.Sleep(10 * time.Millisecond)
	}
}

// TestProcessWithoutFirstThread: to the kernel a process is a zombie as soon as its first thread is. It runs all the same: a program in Go may end
// so, with a thread that waits for a disk.
func TestProcessWithoutFirstThread(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), headlessMark+"=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	folder := fmt.Sprintf("/proc/%d", cmd.Process.Pid)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		fields, err := stat(folder)
		if err != nil {
			t.Fatal(err)
		}
		if fields[statState] == "Z" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("its first thread is in state %s", fields[statState])
		}
	}
	p, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Alive() {
		t.Error("a process that runs without its first thread was found to be gone")
	}
	if text := Describe(p.PID); !strings.Contains(text, "thread "+strconv.Itoa(p.PID)+" Z") || !strings.Contains(text, filepath.Base(self)[:5]) {
		t.Errorf("it is described as %q", text)
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("it runs after Kill")
	}
	if text := Describe(p.PID); !strings.HasSuffix(text, "(gone)") {
		t.Errorf("a process that is gone is %q", text)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "lock")
	release, err := Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Lock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a held lock: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	again, err := Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again(); err != nil {
		t.Fatal(err)
	}
}

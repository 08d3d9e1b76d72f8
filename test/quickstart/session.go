package quickstart

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/assay-project/assay/lab/host"
)

// session is one shell that is given blocks of commands, as a reader's is. A command that fails ends it.
type session struct {
	folder string // for what is its own
	cmd    *exec.Cmd
	input  io.WriteCloser
	done   chan string // says "done" after each block
	ended  chan struct{}
	err    error // how the shell ended, once ended is closed
}

const outputFile = "output"

// open starts a shell in dir, with this environment. ctx ends it, and what it left running.
func open(ctx context.Context, folder, dir string, environment []string) (*session, error) {
	output, err := os.Create(filepath.Join(folder, outputFile))
	if err != nil {
		return nil, fmt.Errorf("start a shell: %w", err)
	}
	defer output.Close()
	marks, said, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start a shell: %w", err)
	}
	defer said.Close()
	s := &session{folder: folder, cmd: exec.CommandContext(ctx, "sh", "-eu"), done: make(chan string), ended: make(chan struct{})}
	s.cmd.Dir, s.cmd.Env = dir, environment
	s.cmd.Stdout, s.cmd.Stderr, s.cmd.ExtraFiles = output, output, []*os.File{said}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.cmd.Cancel = s.kill
	if s.input, err = s.cmd.StdinPipe(); err != nil {
		return nil, errors.Join(fmt.Errorf("start a shell: %w", err), marks.Close())
	}
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start a shell: %w", err), marks.Close())
	}
	go func() {
		defer marks.Close()
		for lines := bufio.NewScanner(marks); lines.Scan(); {
			select {
			case s.done <- lines.Text():
			case <-s.ended:
				return
			}
		}
	}()
	go func() {
		s.err = s.cmd.Wait()
		close(s.ended)
	}()
	return s, nil
}

// kill ends all processes of the session, also those that a command left running.
func (s *session) kill() error {
	if err := syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end the shell: %w", err)
	}
	return nil
}

// close ends the session.
func (s *session) close() error {
	err := s.kill()
	<-s.ended
	return err
}

// run has the shell run a block to its end and returns what it printed.
func (s *session) run(b block) (string, error) {
	printed := filepath.Join(s.folder, outputFile)
	before, err := os.Stat(printed)
	if err != nil {
		return "", fmt.Errorf("run a block: %w", err)
	}
	// As a file, so that no command reads the following ones as its input, and that the shell names the line in what it complains of.
	script := filepath.Join(s.folder, fmt.Sprintf("line-%d.sh", b.line))
	if err := os.WriteFile(script, []byte(b.script), 0o600); err != nil {
		return "", fmt.Errorf("run a block: %w", err)
	}
	_, err = fmt.Fprintf(s.input, ". %s < /dev/null\necho done >&3\n", script)
	if err == nil {
		select {
		case <-s.done:
		case <-s.ended:
			err = fmt.Errorf("the shell ended: %v", s.err)
		}
	}
	text, unread := os.ReadFile(printed)
	if unread != nil {
		return "", fmt.Errorf("run a block: %w", unread)
	}
	output := string(text[before.Size():])
	if err != nil {
		err = fmt.Errorf("line %d: %w: %s", b.line, err, host.LastLines(output, 8))
	}
	return output, err
}

// environment is this process's without what belongs to a make or an earlier login, and with a home of its own. Programs of the folder come first.
func environment(ctx context.Context, home, programs string) ([]string, error) {
	names := []string{"GOENV", "GOPATH", "GOCACHE", "GOMODCACHE"} // they follow from the home otherwise
	out, err := exec.CommandContext(ctx, "go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("ask go for its folders: %w", err)
	}
	var kept []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		switch name {
		case "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ASSAYCONFIG", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME":
		default:
			kept = append(kept, variable)
		}
	}
	for i, value := range strings.Split(strings.TrimSuffix(string(out), "\n"), "\n") {
		kept = append(kept, names[i]+"="+value)
	}
	return append(kept, "HOME="+home, "PATH="+programs+":"+os.Getenv("PATH")), nil
}

// Package leash ties processes to the one that wants them. A supervisor holds what must not be left behind: machines, namespaces, sockets.
// It is started with a pipe as its stdin, whose other end only its parent has: when the parent ends, in whatever way, the pipe closes and
// the supervisor takes everything down. A parent that wants it to go on says so first (Detach). Others reach a supervisor over a socket in
// its folder.
//
// It trusts who can write to that folder, and leaves to the supervisor what it holds and how that ends.
package leash

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
)

// detachWord is what a supervisor reads on its stdin when it may outlive its parent.
const detachWord = "detach"

// A Child is a supervisor as its parent sees it.
type Child struct {
	leash io.WriteCloser // nil once let go
	ended chan struct{}
}

// Start runs a supervisor in a session of its own. Its stdout and stderr are appended to the file log.
func Start(ctx context.Context, command []string, log string) (*Child, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start supervisor: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(command[0], slices.Clone(command[1:])...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdout, cmd.Stderr = out, out
	leash, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start supervisor: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start supervisor: %w", err)
	}
	c := &Child{leash: leash, ended: make(chan struct{})}
	go func() {
		cmd.Wait() // how it ended stands in its log
		close(c.ended)
	}()
	return c, nil
}

// Ended is closed when the supervisor is gone.
func (c *Child) Ended() <-chan struct{} { return c.ended }

// Detach lets the supervisor outlive this process.
func (c *Child) Detach() error {
	if c.leash == nil {
		return nil
	}
	_, err := io.WriteString(c.leash, detachWord+"\n")
	err = errors.Join(err, c.leash.Close())
	c.leash = nil
	if err != nil {
		return fmt.Errorf("detach supervisor: %w", err)
	}
	return nil
}

// Pull makes the supervisor end, as the death of its parent would.
func (c *Child) Pull() {
	if c.leash != nil {
		c.leash.Close()
		c.leash = nil
	}
}

// Watch reports once, in a supervisor: true when its parent lets go of it, false when the parent is gone.
func Watch(stdin io.Reader) <-chan bool {
	report := make(chan bool, 1)
	go func() {
		line, err := bufio.NewReader(stdin).ReadString('\n')
		report <- err == nil && line == detachWord+"\n"
	}()
	return report
}

package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

const (
	minBackOff = 500 * time.Millisecond
	maxBackOff = 30 * time.Second
	settled    = 10 * time.Second
)

// ReadServices reads the services of the file at path; none if there is no such file.
func ReadServices(path string) ([]Service, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read services: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var services []Service
	if err := dec.Decode(&services); err != nil {
		return nil, fmt.Errorf("read services of %s: %w", path, err)
	}
	for i, s := range services {
		if s.Name == "" || len(s.Args) == 0 {
			return nil, fmt.Errorf("read services of %s: service %d needs a name and a command", path, i)
		}
	}
	return services, nil
}

// Keep runs a service until ctx ends, starting it again whenever it ends.
func Keep(ctx context.Context, s Service, log *slog.Logger) {
	// The service dies with this process, so that a new one does not run it twice; the kernel binds that to the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pause := minBackOff
	for ctx.Err() == nil {
		began := time.Now()
		err := runService(ctx, s)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= settled {
			pause = minBackOff
		}
		log.Info("service ended", "service", s.Name, "err", err, "again", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, maxBackOff)
	}
}

func runService(ctx context.Context, s Service) error {
	path := s.Log
	if path == "" {
		path = "/var/log/" + s.Name + ".log"
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open log of service %s: %w", s.Name, err)
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, s.Args[0], s.Args[1:]...)
	if err := asUser(cmd, s.User); err != nil {
		return err
	}
	cmd.Env = append(cmd.Env, s.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Setsid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = pipeLinger
	return cmd.Run()
}

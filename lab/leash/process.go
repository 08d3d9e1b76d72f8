package leash

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const killPatience = 10 * time.Second

// A Process is named so that another one with a reused number is never taken for it.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, /proc/PID/stat field 22
}

// Identify names a running process. One that has ended, waited for or not, is os.ErrProcessDone or fs.ErrNotExist.
func Identify(pid int) (Process, error) {
	start, err := startTime(pid)
	if err != nil {
		return Process{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	return Process{PID: pid, Start: start}, nil
}

// startTime reads the process's start. The name in the second field may hold anything, blanks and brackets too, so fields count from the
// last bracket.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	end := strings.LastIndex(string(stat), ")")
	fields := strings.Fields(string(stat[end+1:]))
	if end < 0 || len(fields) < 20 {
		return 0, fmt.Errorf("%d fields in /proc/%d/stat", len(fields), pid)
	}
	if fields[0] == "Z" {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// Alive reports whether this very process still runs.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	start, err := startTime(p.PID)
	return err == nil && start == p.Start
}

// Kill sends SIGKILL to this very process and waits for its end. One that is gone is no error.
func (p Process) Kill() error {
	if !p.Alive() {
		return nil
	}
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	return p.Await(killPatience)
}

// Await waits until the process is gone.
func (p Process) Await(patience time.Duration) error {
	for end := time.Now().Add(patience); p.Alive(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("process %d still runs after %v", p.PID, patience)
		}
	}
	return nil
}

package leash

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// killPatience is long for what the kernel still does on behalf of a killed process: writing to a slow disk, for one, which nothing interrupts.
const killPatience = 2 * time.Minute

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

// Fields of /proc/PID/stat (proc_pid_stat(5)), counted from the state, which is the third.
const (
	statState   = 0
	statThreads = 17
	statStart   = 19
)

// startTime reads the process's start. A process whose first thread has ended shows as a zombie too, and runs for as long as it has other threads.
func startTime(pid int) (uint64, error) {
	fields, err := stat("/proc/" + strconv.Itoa(pid))
	if err != nil {
		return 0, err
	}
	if fields[statState] == "Z" && fields[statThreads] == "1" {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(fields[statStart], 10, 64)
}

// stat reads the fields of a process's or a thread's stat file. The name in the second field may hold anything, blanks and brackets too, so fields
// count from the last bracket.
func stat(folder string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(folder, "stat"))
	if err != nil {
		return nil, err
	}
	end := strings.LastIndex(string(text), ")")
	fields := strings.Fields(string(text[end+1:]))
	if end < 0 || len(fields) <= statStart {
		return nil, fmt.Errorf("%d fields in %s/stat", len(fields), folder)
	}
	return fields, nil
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
			return fmt.Errorf("%s still runs after %v", Describe(p.PID), patience)
		}
	}
	return nil
}

// How much Describe tells.
const (
	describedThreads = 4
	describedCalls   = 6
)

// Describe says in one line, for people, what a process is and what keeps it: the states of its threads and, for root, where in the kernel they
// wait, innermost call first.
func Describe(pid int) string {
	folder := "/proc/" + strconv.Itoa(pid)
	name, err := os.ReadFile(filepath.Join(folder, "comm"))
	if err != nil {
		return fmt.Sprintf("process %d (gone)", pid)
	}
	text := fmt.Sprintf("process %d (%s) in %s", pid, strings.TrimSpace(string(name)), strings.Join(groups(folder), ", "))
	threads, err := filepath.Glob(filepath.Join(folder, "task/*"))
	if err != nil {
		return text
	}
	for _, thread := range threads[:min(len(threads), describedThreads)] {
		if fields, err := stat(thread); err == nil {
			text += fmt.Sprintf("; thread %s %s %s", filepath.Base(thread), fields[statState], strings.Join(calls(thread), " < "))
		}
	}
	if len(threads) > describedThreads {
		text += fmt.Sprintf("; %d threads more", len(threads)-describedThreads)
	}
	return text
}

// groups are the cgroups that a process is in, by their paths.
func groups(folder string) []string {
	text, err := os.ReadFile(filepath.Join(folder, "cgroup"))
	if err != nil {
		return nil
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 && !slices.Contains(found, fields[2]) {
			found = append(found, fields[2])
		}
	}
	return found
}

// calls are the innermost functions of a thread that waits in the kernel.
func calls(thread string) []string {
	text, err := os.ReadFile(filepath.Join(thread, "stack"))
	if err != nil {
		return nil
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		_, call, _ := strings.Cut(strings.TrimSpace(line), " ") // [<0>] name+0x74/0xc0
		call, _, _ = strings.Cut(call, "+")
		if found = append(found, call); len(found) == describedCalls {
			break
		}
	}
	return found
}

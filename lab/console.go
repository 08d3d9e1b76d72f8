package lab

import (
	"os"
	"sync"
	"time"
)

// A console is a machine's serial line, whose log grows over all its starts, as one start has it.
type console struct {
	path string

	mu    sync.Mutex // the start of a reboot is told by QEMU, in a goroutine of its own
	began time.Time
	size  int64 // of the log when this start began
}

// start says that the machine starts now.
func (c *console) start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.began, c.size = time.Now(), fileSize(c.path)
}

// mute is for how long the machine has run without having printed anything since it started; 0 if it has.
func (c *console) mute() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if fileSize(c.path) > c.size {
		return 0
	}
	return time.Since(c.began)
}

// fileSize is 0 for what is not there.
func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/assay-project/assay/evidence/ima"
)

// Bounds on what is read of the kernel's logs.
const (
	maxListBytes    = 512 << 20
	maxBootLogBytes = 16 << 20
)

// measurementList reads IMA's ASCII list through a descriptor that was opened while the process had the right to.
//
// Positions are entries since boot. The kernel only appends, so the start of each entry is remembered and a round reads what is
// asked for and nothing before it. Entries are told apart as the verifier does it (a name may hold a newline), or both would
// count differently as soon as somebody runs such a file.
type measurementList struct {
	mu    sync.Mutex
	file  *os.File
	start []int64 // start[i] is the offset of entry i
	end   int64   // the offset after the last known entry
}

// openList opens the list for the life of the agent. A missing file is no error: the machine has no IMA, and a policy that needs the
// list fails for it at the server.
func openList(path string) (*measurementList, error) {
	file, err := os.Open(path)
	switch {
	case path == "" || errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("open measurement list (key imaList): %w", err)
	}
	return &measurementList{file: file}, nil
}

// from returns the list from an entry on, and the entry's number. Asked for one beyond the end it returns the whole list and 0, which
// tells the verifier that the list is not the one that it knows.
func (l *measurementList) from(entry uint64) (text []byte, first uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text, first, err = l.read(entry)
	if err == nil && entry > uint64(len(l.start)) {
		text, first, err = l.read(0)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read measurement list: %w", err)
	}
	return text, first, nil
}

// read returns the text from entry on, or from the end of the known entries if there are fewer, and learns what is new.
func (l *measurementList) read(entry uint64) (text []byte, first uint64, err error) {
	if err := l.forgetShrunk(); err != nil {
		return nil, 0, err
	}
	offset := l.end
	first = uint64(len(l.start))
	if entry < first {
		offset, first = l.start[entry], entry
	}
	if _, err := l.file.Seek(offset, io.SeekStart); err != nil {
		return nil, 0, err
	}
	text, err = io.ReadAll(io.LimitReader(l.file, maxListBytes+1))
	if err != nil {
		return nil, 0, err
	}
	if len(text) > maxListBytes {
		return nil, 0, fmt.Errorf("more than %d bytes from entry %d on", maxListBytes, first)
	}
	known := l.end - offset
	for _, size := range entrySizes(text[known:]) {
		l.start = append(l.start, l.end)
		l.end += int64(size)
	}
	// What follows the last whole entry is being written.
	text = text[:l.end-offset]
	if entry > first && entry <= uint64(len(l.start)) {
		skip := l.end
		if entry < uint64(len(l.start)) {
			skip = l.start[entry]
		}
		text, first = text[skip-offset:], entry
	}
	return text, first, nil
}

// forgetShrunk starts again when a plain file (no kernel list: those have no size) is shorter than what was read of it.
func (l *measurementList) forgetShrunk() error {
	info, err := l.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() > 0 && info.Size() < l.end {
		l.start, l.end = nil, 0
	}
	return nil
}

// entrySizes returns the sizes in bytes of the whole entries in a piece of a list. Where a piece is no list that can be parsed, lines
// are counted: the verifier will say what is wrong with it.
func entrySizes(text []byte) []int {
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	list, err := ima.ParseASCII(text)
	lines := make([]int, 0, list.Len())
	for _, entry := range list.All() {
		lines = append(lines, 1+strings.Count(entry.Path, "\n"))
	}
	if err != nil {
		lines = slices.Repeat([]int{1}, bytes.Count(text, []byte("\n")))
	}
	sizes := make([]int, len(lines))
	for i, n := range lines {
		for range n {
			line := bytes.IndexByte(text, '\n') + 1
			sizes[i], text = sizes[i]+line, text[line:]
		}
	}
	return sizes
}

// readBootLog reads the firmware's event log, which does not change after the boot. A missing one is no error, as with the list.
func readBootLog(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open boot log (key bootLog): %w", err)
	}
	defer file.Close()
	log, err := io.ReadAll(io.LimitReader(file, maxBootLogBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read boot log %s: %w", path, err)
	}
	if len(log) > maxBootLogBytes {
		return nil, fmt.Errorf("read boot log %s: longer than %d bytes", path, maxBootLogBytes)
	}
	return log, nil
}

// entries returns how many entries are known.
func (l *measurementList) entries() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.start)
}

// close gives the descriptor back.
func (l *measurementList) close() error {
	if err := l.file.Close(); err != nil {
		return fmt.Errorf("close measurement list: %w", err)
	}
	return nil
}

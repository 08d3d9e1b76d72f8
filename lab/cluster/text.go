package cluster

import (
	"os"
	"strings"
	"unicode"
)

// tail returns the last lines of a file, on one line; nothing if it cannot be read.
func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return lastLines(string(data), lines)
}

// lastLines returns the end of a text, on one line and without what would steer a terminal.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.Join(lines[max(0, len(lines)-n):], "; "))
}

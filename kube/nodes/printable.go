package nodes

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of texts in objects and Events.
const (
	maxDetailBytes  = 300
	maxMessageBytes = 1000 // of a condition: at most 32768, but people read it
)

// printable makes a text from outside harmless and short: what is not printable becomes ␦, the rest beyond max bytes is left out.
func printable(text string, max int) string {
	var b strings.Builder
	cut := 0 // where the ellipsis still fits
	for _, c := range text {
		if !unicode.IsPrint(c) || c == utf8.RuneError {
			c = '␦'
		}
		if b.Len() <= max-len("…") {
			cut = b.Len()
		}
		if b.Len()+utf8.RuneLen(c) > max {
			return b.String()[:cut] + "…"
		}
		b.WriteRune(c)
	}
	return b.String()
}

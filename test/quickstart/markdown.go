// Package quickstart follows the README's way from an existing cluster to the first verdict, word for word: it reads the commands out of the text, puts
// a real registry, node and vendor's root in place of the words that the text names for them, and runs the commands in one shell against a real
// cluster. What came of them it asks the API, not the text. It leaves to test/e2e what is not told there.
package quickstart

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// block is one fenced block of shell commands.
type block struct {
	heading string
	line    int // of its first command, in the file
	script  string
}

// guide is a section of a Markdown text that a reader follows.
type guide struct {
	words  []string // what the first table of the section says stands for something of the reader's
	blocks []block  // in the order of the text
}

// tableWord is the first cell of a table's row that names a word in the commands.
var tableWord = regexp.MustCompile("^\\| `([^`]+)` \\|")

// readGuide reads the section of that heading, to the next heading of its level.
func readGuide(text, heading string) (guide, error) {
	var g guide
	var open *block
	within := false
	at, number := "", 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSuffix(line, "\n")
		switch {
		case open != nil && line == "```":
			g.blocks, open = append(g.blocks, *open), nil
		case open != nil:
			open.script += line + "\n"
		case strings.HasPrefix(line, "## "):
			within = line == "## "+heading
			at = heading
		case !within:
		case strings.HasPrefix(line, "### "):
			at = strings.TrimPrefix(line, "### ")
		case line == "```sh":
			open = &block{heading: at, line: number + 1}
		case strings.HasPrefix(line, "```"):
			return guide{}, fmt.Errorf("line %d: %s: a block that is not ```sh would not be followed", number, at)
		case len(g.blocks) == 0:
			if word := tableWord.FindStringSubmatch(line); word != nil {
				g.words = append(g.words, word[1])
			}
		}
	}
	if open != nil {
		return guide{}, fmt.Errorf("line %d: the block does not end", open.line-1)
	}
	if len(g.blocks) == 0 {
		return guide{}, fmt.Errorf("section %q: there is none with a block of commands", heading)
	}
	return g, nil
}

// fill puts the reader's own in place of the words that stand for it: all of the table's words and no others.
func (g guide) fill(own map[string]string) (guide, error) {
	given := slices.Sorted(maps.Keys(own))
	if named := slices.Sorted(slices.Values(g.words)); !slices.Equal(named, given) {
		return guide{}, fmt.Errorf("the text has words for %q, which are not %q", named, given)
	}
	filled := guide{words: g.words}
	used := map[string]bool{}
	for _, b := range g.blocks {
		for _, word := range given {
			used[word] = used[word] || strings.Contains(b.script, word)
			b.script = strings.ReplaceAll(b.script, word, own[word])
		}
		if left := strangeWord(b.script); left != "" {
			return guide{}, fmt.Errorf("line %d: %q stands for something that the text does not tell", b.line, left)
		}
		filled.blocks = append(filled.blocks, b)
	}
	for _, word := range given {
		if !used[word] {
			return guide{}, fmt.Errorf("no command uses %q", word)
		}
	}
	return filled, nil
}

var (
	// heredoc is the word that ends one.
	heredoc = regexp.MustCompile(`<<-?['"]?(\w+)`)
	// strange are names that are kept for examples, words in angle brackets, and words in capitals, which stand for something in manuals. Those that
	// are variables of the shell or of make come with what shows that.
	strange = regexp.MustCompile(`[\w.-]*\bexample\b[\w./-]*|<[\w -]+>|[$\w{]*\b[A-Z][A-Z_]{2,}\b=?`)
)

// strangeWord returns a word of a script that still stands for something else, "" if there is none.
func strangeWord(script string) string {
	ends := map[string]bool{}
	for _, end := range heredoc.FindAllStringSubmatch(script, -1) {
		ends[end[1]] = true
	}
	for _, word := range strange.FindAllString(script, -1) {
		if variable := strings.HasPrefix(word, "$") || strings.HasSuffix(word, "="); !variable && !ends[word] {
			return word
		}
	}
	return ""
}

package policy

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

// pattern is one regular expression over recorded paths.
type pattern struct {
	source string
	// prefix is what every match begins with: most paths are decided by it.
	prefix string
	re     *regexp.Regexp
}

func (p *pattern) match(name string) bool {
	return strings.HasPrefix(name, p.prefix) && p.re.MatchString(name)
}

type patterns []pattern

func (all patterns) match(name string) bool {
	_, ok := all.find(name)
	return ok
}

// find returns the source of the first pattern that matches.
func (all patterns) find(name string) (source string, ok bool) {
	for i := range all {
		if all[i].match(name) {
			return all[i].source, true
		}
	}
	return "", false
}

// compilePattern compiles a native pattern: RE2, matching the whole path, a space standing for the "_" that the kernel records.
func compilePattern(source string) (pattern, error) {
	if source == "" {
		return pattern{}, fmt.Errorf("pattern is empty")
	}
	if len(source) > MaxPatternBytes {
		return pattern{}, fmt.Errorf("pattern of %d bytes, more than %d", len(source), MaxPatternBytes)
	}
	tree, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return pattern{}, fmt.Errorf("pattern %.200q: %w", source, err)
	}
	mapSpaces(tree)
	return anchor(source, tree.String(), `\z`)
}

// anchor compiles a checked expression at the start of the path, and at its end by the given suffix.
func anchor(source, expression, end string) (pattern, error) {
	re, err := regexp.Compile(`\A(?:` + expression + `)` + end)
	if err != nil {
		return pattern{}, fmt.Errorf("pattern %.200q: %w", source, err)
	}
	free, err := regexp.Compile(expression)
	if err != nil {
		return pattern{}, fmt.Errorf("pattern %.200q: %w", source, err)
	}
	prefix, _ := free.LiteralPrefix()
	return pattern{source: source, prefix: prefix, re: re}, nil
}

// mapSpaces lets "_" match wherever a space does.
func mapSpaces(tree *syntax.Regexp) {
	switch tree.Op {
	case syntax.OpLiteral:
		for i, c := range tree.Rune {
			if c == ' ' {
				tree.Rune[i] = '_'
			}
		}
	case syntax.OpCharClass:
		for i := 0; i+1 < len(tree.Rune); i += 2 {
			if tree.Rune[i] <= ' ' && ' ' <= tree.Rune[i+1] {
				tree.Rune = withRune(tree.Rune, '_')
				break
			}
		}
	}
	for _, sub := range tree.Sub {
		mapSpaces(sub)
	}
}

// withRune adds one rune to the sorted ranges of a character class.
func withRune(ranges []rune, c rune) []rune {
	var out []rune
	added := false
	for i := 0; i+1 < len(ranges); i += 2 {
		low, high := ranges[i], ranges[i+1]
		if low <= c && c <= high {
			return ranges
		}
		if !added && c < low {
			out, added = append(out, c, c), true
		}
		out = append(out, low, high)
	}
	if !added {
		out = append(out, c, c)
	}
	return out
}

// compilePrefix compiles a pattern of Keylime: Python's re with match, which is anchored at the start alone. "/tmp" covers "/tmpfoo".
//
// \d, \w and \s mean ASCII here and Unicode in Python: such a pattern covers fewer paths than it did, and never more.
func compilePrefix(source string) (pattern, error) {
	if len(source) > MaxPatternBytes {
		return pattern{}, fmt.Errorf("pattern of %d bytes, more than %d", len(source), MaxPatternBytes)
	}
	translated, err := translatePython(source)
	if err != nil {
		return pattern{}, fmt.Errorf("pattern %.200q: %w", source, err)
	}
	if _, err := syntax.Parse(translated, syntax.Perl); err != nil {
		return pattern{}, fmt.Errorf("pattern %.200q: %w", source, err)
	}
	return anchor(source, translated, "")
}

// translatePython rewrites what RE2 writes otherwise and refuses what it reads otherwise or cannot do; the rest is for its parser to judge.
func translatePython(source string) (string, error) {
	var out strings.Builder
	class := false
	for i := 0; i < len(source); i++ {
		c, rest := source[i], source[i:]
		switch {
		case c == '\\' && i+1 < len(source):
			escape, err := translateEscape(source[i+1], class)
			if err != nil {
				return "", err
			}
			out.WriteString(escape)
			i++
			continue
		case class && c == '[' && strings.HasPrefix(rest, "[:"):
			return "", fmt.Errorf("[: in a character class means something else in Python")
		case class && c == ']':
			class = false
		case !class && c == '[':
			class = true
			head := classHead(rest)
			out.WriteString(head)
			i += len(head) - 1
			continue
		case !class && strings.HasPrefix(rest, "{,"):
			return "", fmt.Errorf("{, without a lower bound: write {0,")
		case !class && strings.HasPrefix(rest, "(?"):
			if err := checkGroup(rest); err != nil {
				return "", err
			}
		}
		out.WriteByte(c)
	}
	return out.String(), nil
}

// classHead returns the start of a character class, in which a "]" right after "[" or "[^" is a member.
func classHead(rest string) string {
	size := 1
	if strings.HasPrefix(rest[size:], "^") {
		size++
	}
	if strings.HasPrefix(rest[size:], "]") {
		size++
	}
	return rest[:size]
}

func translateEscape(c byte, class bool) (string, error) {
	switch {
	case c == 'Z' && !class:
		return `\z`, nil
	case strings.IndexByte("zCQEpPhHRKG", c) >= 0:
		return "", fmt.Errorf(`\%c is no escape of Python's re`, c)
	case '1' <= c && c <= '9':
		return "", fmt.Errorf(`the backreference or octal escape \%c is not supported`, c)
	case c == 'b' && class:
		return `\x08`, nil
	}
	return `\` + string(rune(c)), nil
}

// checkGroup looks at "(?": RE2 has neither look-around nor references, and names groups by (?P<name>.
func checkGroup(rest string) error {
	for _, group := range []struct{ start, name string }{
		{"(?=", "the look-ahead (?="}, {"(?!", "the look-ahead (?!"}, {"(?<=", "the look-behind (?<="}, {"(?<!", "the look-behind (?<!"},
		{"(?P=", "the backreference (?P="}, {"(?(", "the condition (?("}, {"(?>", "the atomic group (?>"}, {"(?#", "the comment (?#"}, {"(?<", "the group (?<"},
	} {
		if strings.HasPrefix(rest, group.start) {
			return fmt.Errorf("%s is not supported", group.name)
		}
	}
	return nil
}

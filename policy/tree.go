package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"sigs.k8s.io/yaml"
)

// node is a value of a document.
type node struct {
	kind kind
	// text is a string's text, a number's or a boolean's literal.
	text string
	// items are a list's items or an object's values, keys the object's keys in the same order.
	items []node
	keys  []string
}

type kind uint8

const (
	null kind = iota
	boolean
	number
	text
	list
	object
)

func (k kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "a list", "an object"}[k]
}

// get returns the value of a key, or nil.
func (n *node) get(key string) *node {
	if n == nil {
		return nil
	}
	if i := slices.Index(n.keys, key); i >= 0 {
		return &n.items[i]
	}
	return nil
}

// parseTree reads one YAML or JSON document. Text that begins with a brace is JSON; YAML's flow form is not told from it, and so has to be JSON.
func parseTree(doc []byte, r *reader) (node, bool) {
	if len(doc) > MaxDocumentBytes {
		r.problem("document of %d bytes, more than %d", len(doc), MaxDocumentBytes)
		return node{}, false
	}
	if !utf8.Valid(doc) {
		r.problem("document is not UTF-8")
		return node{}, false
	}
	source := doc
	if !isJSON(doc) {
		if line := secondDocument(doc); line > 0 {
			r.problem("line %d: a second YAML document; a file holds one", line)
			return node{}, false
		}
		var err error
		if source, err = yaml.YAMLToJSONStrict(doc); err != nil {
			r.yamlProblems(err)
			return node{}, false
		}
	}
	before := len(r.problems)
	p := treeParser{reader: r, source: source, written: isJSON(doc), dec: json.NewDecoder(bytes.NewReader(source))}
	p.dec.UseNumber()
	root, err := p.document()
	if err != nil {
		r.problem("%s%w", p.line(), err)
	}
	return root, len(r.problems) == before
}

func isJSON(doc []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(doc, " \t\r\n"), []byte{'{'})
}

// secondDocument returns the line of a marker that ends the first document, or 0. Only the first document would be read.
func secondDocument(doc []byte) int {
	begun, line := false, 0
	for row := range bytes.Lines(doc) {
		line++
		row = bytes.TrimRight(row, " \t\r\n")
		marker := len(row) >= 3 && (string(row[:3]) == "---" || string(row[:3]) == "...") && (len(row) == 3 || row[3] == ' ' || row[3] == '\t')
		if marker && begun {
			return line
		}
		if len(row) > 0 && row[0] != '#' {
			begun = true
		}
	}
	return 0
}

type treeParser struct {
	reader *reader
	dec    *json.Decoder
	source []byte
	// written says that source is what the author wrote, so that its lines are worth naming.
	written bool
}

func (p *treeParser) line() string {
	if !p.written {
		return ""
	}
	offset := min(int(p.dec.InputOffset()), len(p.source))
	return fmt.Sprintf("line %d: ", 1+bytes.Count(p.source[:offset], []byte{'\n'}))
}

func (p *treeParser) document() (node, error) {
	root, err := p.value(nil, 0)
	if err != nil {
		return node{}, err
	}
	if _, err := p.dec.Token(); !errors.Is(err, io.EOF) {
		return node{}, errors.New("text after the document")
	}
	return root, nil
}

func (p *treeParser) value(at *place, depth int) (node, error) {
	if depth > maxDepth {
		return node{}, fmt.Errorf("more than %d levels", maxDepth)
	}
	token, err := p.dec.Token()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return node{}, err
	}
	switch token := token.(type) {
	case string:
		return node{kind: text, text: token}, nil
	case bool:
		return node{kind: boolean, text: fmt.Sprint(token)}, nil
	case json.Number:
		return node{kind: number, text: token.String()}, nil
	case json.Delim:
		if token == '{' {
			return p.object(at, depth)
		}
		return p.list(at, depth)
	}
	return node{}, nil // null
}

func (p *treeParser) list(at *place, depth int) (node, error) {
	n := node{kind: list}
	for p.dec.More() {
		item, err := p.value(at.item(len(n.items)), depth+1)
		if err != nil {
			return node{}, err
		}
		n.items = append(n.items, item)
	}
	_, err := p.dec.Token()
	return n, err
}

func (p *treeParser) object(at *place, depth int) (node, error) {
	n := node{kind: object}
	seen := map[string]bool{}
	for p.dec.More() {
		token, err := p.dec.Token()
		if err != nil {
			return node{}, err
		}
		key, ok := token.(string)
		if !ok {
			return node{}, fmt.Errorf("key %v is no string", token)
		}
		if seen[key] {
			p.reader.problem("%s%s: the key is there twice", p.line(), at.member(key))
		}
		seen[key] = true
		item, err := p.value(at.member(key), depth+1)
		if err != nil {
			return node{}, err
		}
		n.keys, n.items = append(n.keys, key), append(n.items, item)
	}
	_, err := p.dec.Token()
	return n, err
}

// yamlProblems takes the library's list of mistakes apart.
func (r *reader) yamlProblems(err error) {
	lines := strings.Split(err.Error(), "\n")
	if len(lines) == 1 {
		r.problem("%w", err)
		return
	}
	for _, line := range lines[1:] {
		if line = strings.TrimSpace(line); line != "" {
			r.problem("%s", strings.Replace(line, "already set in map", "is there twice", 1))
		}
	}
}

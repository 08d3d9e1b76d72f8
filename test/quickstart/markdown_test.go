package quickstart

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sample is a text with a section to follow between two others.
const sample = "# A\n\n## Other\n\n```\nnot followed\n```\n\n## Way\n\n| word | is |\n|---|---|\n| `here.example` | a place |\n| `who` | a name |\n\n" +
	"### First\n\n```sh\ngo here.example AS=who\n```\n\n| `no word` | after the commands |\n\n### Second\n\n```sh\nASK=1\necho $ASK ${ASK} <<END\nwho\nEND\n```\n\n## Last\n\n```sh\nrm who\n```\n"

func own() map[string]string { return map[string]string{"here.example": "10.0.0.1:5000", "who": "vm1"} }

func TestReadAndFill(t *testing.T) {
	g, err := readGuide(sample, "Way")
	if err != nil {
		t.Fatal(err)
	}
	if g, err = g.fill(own()); err != nil {
		t.Fatal(err)
	}
	want := guide{words: []string{"here.example", "who"}, blocks: []block{
		{heading: "First", line: 19, script: "go 10.0.0.1:5000 AS=vm1\n"},
		{heading: "Second", line: 27, script: "ASK=1\necho $ASK ${ASK} <<END\nvm1\nEND\n"},
	}}
	if diff := cmp.Diff(want, g, cmp.AllowUnexported(guide{}, block{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestMistakesInTheText: what a reader could not follow is an error that says where.
func TestMistakesInTheText(t *testing.T) {
	replaced := func(old, new string) string {
		if !strings.Contains(sample, old) {
			t.Fatalf("the sample has no %q", old)
		}
		return strings.Replace(sample, old, new, 1)
	}
	for name, c := range map[string]struct{ text, want string }{
		"no such section":          {replaced("## Way", "## Path"), `section "Way": there is none with a block of commands`},
		"no commands":              {"## Way\n\nGo there.\n", `section "Way": there is none with a block of commands`},
		"a block without an end":   {"## Way\n\n```sh\ngo\n", "line 3: the block does not end"},
		"a block of another kind":  {replaced("### Second\n\n```sh", "### Second\n\n```"), "line 26: Second: a block that is not ```sh would not be followed"},
		"a word that is not told":  {replaced("| `who` | a name |\n", ""), `the text has words for ["here.example"], which are not ["here.example" "who"]`},
		"a word too much":          {replaced("| `who`", "| `when` | a time |\n| `who`"), `the text has words for ["here.example" "when" "who"], which are not`},
		"a name for examples":      {replaced("ASK=1", "ask that.example"), `line 27: "that.example" stands for something that the text does not tell`},
		"a word in capitals":       {replaced("ASK=1", "cat FILE"), `line 27: "FILE" stands for something`},
		"a word in brackets":       {replaced("ASK=1", "cat <your file>"), `line 27: "<your file>" stands for something`},
		"another end of a heredoc": {replaced("who\nEND", "who\nEOF"), `line 27: "EOF" stands for something`},
	} {
		g, err := readGuide(c.text, "Way")
		if err == nil {
			_, err = g.fill(own())
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	unused := strings.NewReplacer("AS=who", "AS=it", "\nwho\n", "\nit\n").Replace(sample)
	g, err := readGuide(unused, "Way")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.fill(own()); err == nil || err.Error() != `no command uses "who"` {
		t.Errorf("a word that no command uses: %v", err)
	}
}

// TestReadme: the text can be followed as far as that shows without a cluster, and its blocks are those that TestQuickStart checks.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	g, err := readGuide(string(text), section)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.matches(new(reader).steps()); err != nil {
		t.Error(err)
	}
	if _, err := g.fill(map[string]string{"registry.example/assay": "r", "worker-1": "n", "vendor-root.pem": "f"}); err != nil {
		t.Error(err)
	}
	short := g
	short.blocks = g.blocks[1:]
	if err := short.matches(new(reader).steps()); err == nil || !strings.Contains(err.Error(), g.blocks[0].heading) {
		t.Errorf("without its first block: %v", err)
	}
}

package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

func TestNearest(t *testing.T) {
	names := []string{"config", "check-config", "output", "listen", "o"}
	for _, row := range []struct {
		word, near string
	}{
		{"confg", "config"},
		{"chek-config", "check-config"},
		{"outputt", "output"},
		{"listne", "listen"},
		{"verbose", ""},
		{"x", ""},
		{"", ""},
	} {
		near, ok := Nearest(row.word, names)
		if near != row.near || ok != (row.near != "") {
			t.Errorf("Nearest(%q) = %q, %v; want %q", row.word, near, ok, row.near)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, row := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"flaw", "lawn", 2}, {"same", "same", 0},
	} {
		if got := distance(row.a, row.b); got != row.want {
			t.Errorf("distance(%q, %q) = %d, want %d", row.a, row.b, got, row.want)
		}
	}
}

// program is a root command with one subcommand, as our programs have them.
func program(run error) *cobra.Command {
	root := &cobra.Command{Use: "prog", RunE: func(*cobra.Command, []string) error { return run }}
	root.Flags().String("config", "", "")
	sub := &cobra.Command{Use: "preflight", RunE: func(*cobra.Command, []string) error { return run }}
	sub.Flags().StringP("output", "o", "", "")
	root.AddCommand(sub)
	return root
}

func TestExecute(t *testing.T) {
	for _, row := range []struct {
		name   string
		run    error
		args   []string
		code   int
		stderr string
	}{
		{"success", nil, nil, ExitOK, ""},
		{"error", errors.New("no TPM"), nil, ExitError, "prog: no TPM\n"},
		{"own code", &ExitCode{Code: 4, Err: errors.New("a check fails")}, nil, 4, "prog: a check fails\n"},
		{"own code, all said", &ExitCode{Code: 4}, nil, 4, ""},
		{"hostile words", errors.New("server says \x1b[2J\nsecond\tline"), nil, ExitError, "prog: server says \\x1b[2J\nsecond    line\n"},
		{"flag", nil, []string{"--confg", "x"}, ExitUsage, "prog: unknown flag: --confg (did you mean --config?)\n"},
		{"flag of a subcommand", nil, []string{"preflight", "--outptu=json"}, ExitUsage,
			"prog: unknown flag: --outptu (did you mean --output?)\n"},
		{"flag like no other", nil, []string{"--zzzzzzzz"}, ExitUsage, "prog: unknown flag: --zzzzzzzz (see prog --help)\n"},
		{"flag without value", nil, []string{"--config"}, ExitUsage, "prog: flag needs an argument: --config\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			var stderr strings.Builder
			code := Execute(t.Context(), program(row.run), row.args, &stderr)
			if code != row.code {
				t.Errorf("exit code %d, want %d", code, row.code)
			}
			if diff := cmp.Diff(row.stderr, stderr.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestExecuteSuggestsCommand(t *testing.T) {
	var stderr strings.Builder
	root := program(nil)
	root.RunE = nil
	if code := Execute(t.Context(), root, []string{"preflihgt"}, &stderr); code != ExitUsage {
		t.Errorf("exit code %d for an unknown command, want %d", code, ExitUsage)
	}
	if !strings.Contains(stderr.String(), "preflight") {
		t.Errorf("stderr does not name the nearest command: %s", stderr.String())
	}
}

func TestTable(t *testing.T) {
	table := NewTable("CHECK", "STATUS", "DETAIL")
	table.Row("tpm", "ok", "swtpm")
	table.Row("ima-list", "failing")
	table.Row("ü", "ok", "\x1b[2J", "beyond")
	var out strings.Builder
	if err := table.Print(&out); err != nil {
		t.Fatal(err)
	}
	want := "CHECK     STATUS   DETAIL\n" +
		"tpm       ok       swtpm\n" +
		"ima-list  failing\n" +
		"ü         ok       \\x1b[2J\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"/usr/bin/a b":   "/usr/bin/a b",
		"näher":          "näher",
		"a\nb":           `a\nb`,
		"\x1b]0;x\a":     `\x1b]0;x\a`,
		"bad \xff utf-8": `bad \xff utf-8`,
		"rtl \u202e txt": `rtl \u202e txt`,
		"\u009b31m":      `\u009b31m`,
	} {
		if got := Printable(text); got != want {
			t.Errorf("Printable(%q) = %q, want %q", text, got, want)
		}
	}
}

// settings is a program's configuration.
type settings struct {
	Listen string `json:"listen"`
}

// The file stands over the defaults, the environment over the file; a mistake is one of usage and names the key.
func TestConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "prog.yaml")
	for _, row := range []struct {
		name, text, variable string
		want                 string
		code                 int
	}{
		{"defaults", "", "", "listen: :1\n", ExitOK},
		{"file", "listen: :2\n", "", "listen: :2\n", ExitOK},
		{"environment", "listen: :2\n", ":3", "listen: :3\n", ExitOK},
		{"unknown key", "listne: :2\n", "", "listne", ExitUsage},
	} {
		t.Run(row.name, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(row.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if row.variable != "" {
				t.Setenv("ASSAY_LISTEN", row.variable)
			}
			root := &cobra.Command{Use: "prog", RunE: func(cmd *cobra.Command, _ []string) error {
				config := settings{Listen: ":1"}
				if err := LoadConfig(file, &config); err != nil {
					return err
				}
				return PrintConfig(cmd, config)
			}}
			var stdout, stderr strings.Builder
			root.SetOut(&stdout)
			code := Execute(t.Context(), root, nil, &stderr)
			if said := stdout.String() + stderr.String(); code != row.code || !strings.Contains(said, row.want) {
				t.Errorf("exit code %d and %q, want %d and %q", code, said, row.code, row.want)
			}
		})
	}
}

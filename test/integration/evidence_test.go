package integration

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay/commands"
	"github.com/assay-project/assay/internal/cli"
)

// code is the exit code that an error of a command stands for.
func code(err error) int {
	var exit *cli.ExitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	}
	return 1
}

// Evidence of a real TPM is taken along and checked without the server: when the machine was good, when it had failed, and after a byte of the
// file was changed.
func TestEvidenceIsCheckedOffline(t *testing.T) {
	w := newWorld(t)
	h := w.newHost()
	h.start()
	id := w.registered(1)[0]
	w.enrol(h, id)
	w.verdict(id, attest.Trusted)
	if _, err := w.assay("login", "https://"+w.config.Listen.API, "--credentials", filepath.Join(w.config.StateDir, "administrator")); err != nil {
		t.Fatal(err)
	}
	good, bad, maker := filepath.Join(w.dir, "good.json"), filepath.Join(w.dir, "bad.json"), filepath.Join(w.dir, "maker.pem")
	if err := os.WriteFile(maker, h.roots, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.assay("evidence", "export", string(id), "--out", good); err != nil {
		t.Fatal(err)
	}
	h.run("/usr/bin/unknown", "never approved")
	w.verdict(id, attest.Failed)
	if _, err := w.assay("evidence", "export", string(id), "--out", bad); err != nil {
		t.Fatal(err)
	}
	out, err := w.assay("evidence", "verify", good, "--root", maker)
	if code(err) != 0 || !strings.Contains(out, "Trusted") || !strings.Contains(out, "endorsed by") || strings.Contains(out, "not endorsed") || !strings.Contains(out, "3 entries proven") {
		t.Errorf("good: %v\n%s", err, out)
	}
	if out, err = w.assay("evidence", "verify", good); code(err) != 0 || !strings.Contains(out, "not endorsed") {
		t.Errorf("good, of a maker that nobody knows: %v\n%s", err, out)
	}
	if out, err = w.assay("evidence", "verify", bad); code(err) != commands.ExitFailed || !strings.Contains(out, "FileNotInPolicy") || !strings.Contains(out, "/usr/bin/unknown") {
		t.Errorf("bad: %v\n%s", err, out)
	}
	w.exportOlder(id)

	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte(`"nonce": "`), []byte(`"nonce": "x`), 1)
	if err := os.WriteFile(good, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err = w.assay("evidence", "verify", good); code(err) != 1 || !strings.Contains(err.Error(), "nonce: it was changed") {
		t.Errorf("changed: %v\n%s", err, out)
	}
}

// exportOlder takes the quote that made the node Trusted, after others were accepted.
func (w *world) exportOlder(id attest.AgentID) {
	w.t.Helper()
	results, err := w.admin.Results(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	var trusted api.Transition
	for _, r := range results {
		if r.To == attest.Trusted {
			trusted = r
		}
	}
	file := filepath.Join(w.dir, "older.json")
	if _, err := w.assay("evidence", "export", string(id), "--quote", trusted.Quote.String(), "--out", file); err != nil {
		w.t.Fatal(err)
	}
	if out, err := w.assay("evidence", "verify", file, "-o", "json"); code(err) != 0 || !strings.Contains(out, trusted.Quote.String()) {
		w.t.Errorf("older: %v\n%s", err, out)
	}
	if _, err := w.assay("evidence", "export", string(id), "--quote", "sha256:"+strings.Repeat("0", 64)); code(err) != 1 || !strings.Contains(err.Error(), "404") {
		w.t.Errorf("a quote that is not there: %v", err)
	}
	if _, err := w.assay("evidence", "export", string(id), "--quote", "x"); err == nil || !strings.Contains(err.Error(), "--quote") {
		w.t.Errorf("no digest: %v", err)
	}
}

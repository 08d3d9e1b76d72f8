package integration

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay/commands"
)

// assay runs the command line program as this world's administrator and returns its standard output.
func (w *world) assay(args ...string) (string, error) {
	w.t.Helper()
	var out, errs bytes.Buffer
	root := commands.Root()
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(append([]string{"--config", filepath.Join(w.dir, "assay.yaml")}, args...))
	err := root.ExecuteContext(w.t.Context())
	w.t.Logf("assay %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	return out.String(), err
}

// A Pcr document made from a machine's own quote holds for that machine, and no longer once firmware measures something else.
func TestGoldenPCRs(t *testing.T) {
	w := newWorld(t)
	h := w.newHost()
	h.start()
	id := w.registered(1)[0]
	w.enrol(h, id)
	w.verdict(id, attest.Trusted)
	if _, err := w.assay("login", "https://"+w.config.Listen.API, "--credentials", filepath.Join(w.config.StateDir, "administrator")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.assay("policy", "create", "pcr", "boot", "--node", strings.Repeat("0", 64)); err == nil || !strings.Contains(err.Error(), "node 000") {
		t.Errorf("an unknown node: error %v", err)
	}
	if _, err := w.assay("policy", "create", "pcr", "boot", "--node", string(id), "--pcrs", "0-9,12"); err == nil || !strings.Contains(err.Error(), "quote 1 lacks PCR 12") {
		t.Errorf("a PCR that was not quoted: error %v", err)
	}
	document, err := w.assay("policy", "create", "pcr", "boot", "--node", string(id))
	if err != nil {
		t.Fatal(err)
	}
	stored, err := w.admin.AddPolicy(t.Context(), []byte(document), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.admin.UpdateNode(t.Context(), id, api.NodeUpdate{Policies: &[]string{stored.Digest.String()}}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the node is Trusted under the document", func() bool {
		n, err := w.admin.Node(t.Context(), id)
		return err == nil && n.Verdict == attest.Trusted && len(n.Appraised) == 1 && n.Appraised[0].Name == "boot"
	})
	h.extend(4, []byte("another boot loader"))
	n := w.verdict(id, attest.Failed)
	if n.Failures[0].ID != attest.PcrValueNotAllowed {
		t.Errorf("failed by %s, want %s", n.Failures[0].ID, attest.PcrValueNotAllowed)
	}
}

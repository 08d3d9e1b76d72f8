package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/swtpm"
)

// goesOn waits until further evidence of a node is accepted, and it is Trusted by that.
func (w *world) goesOn(id attest.AgentID) {
	w.t.Helper()
	before, err := w.admin.Node(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	w.eventually("rounds go on", func() bool {
		node, err := w.admin.Node(w.t.Context(), id)
		return err == nil && node.Verdict == attest.Trusted && node.Accepted > before.Accepted+1
	})
}

// trusted is a host that is enrolled and trusted.
func (w *world) trusted() (*host, attest.AgentID) {
	w.t.Helper()
	h := w.newHost()
	h.start()
	id := w.registered(1)[0]
	w.enrol(h, id)
	w.verdict(id, attest.Trusted)
	return h, id
}

// What a pod goes through at each restart: another port, another TLS key. Nobody has to do anything, and no verdict moves.
func TestAgentAnswersElsewhere(t *testing.T) {
	w := newWorld(t)
	h, id := w.trusted()
	h.stop()
	for _, name := range []string{"tls-key.pem", "tls-cert.pem"} {
		if err := os.Remove(filepath.Join(h.config.StateDir, name)); err != nil {
			t.Fatal(err)
		}
	}
	h.config.Listen = freeAddress(t)
	h.start()
	w.goesOn(id)
	if node, err := w.admin.Node(t.Context(), id); err != nil || !strings.HasSuffix(h.config.Listen, fmt.Sprintf(":%d", node.Port)) {
		t.Errorf("the node is at %s port %d, the agent at %s, %v", node.Address, node.Port, h.config.Listen, err)
	}
	if results, err := w.admin.Results(t.Context(), id); err != nil || len(results) != 2 {
		t.Errorf("%d transitions, %v", len(results), err)
	}
}

// A machine that was installed anew has another AK. It waits for a person, who needs one command; being Failed it needs a new boot as well.
func TestReimagedMachine(t *testing.T) {
	w := newWorld(t)
	h, id := w.trusted()
	reimage := func() {
		t.Helper()
		if err := os.RemoveAll(h.config.StateDir); err != nil {
			t.Fatal(err)
		}
		h.start()
		w.eventually("the registration waits for a person", func() bool {
			node, err := w.admin.Node(t.Context(), id)
			return err == nil && strings.Contains(node.Registration, "attestation key is new")
		})
		if err := w.admin.Approve(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if node, err := w.admin.Node(t.Context(), id); err != nil || node.Registration != "" {
			t.Errorf("after the approval %q waits, %v", node.Registration, err)
		}
	}
	h.stop()
	reimage()
	w.verdict(id, attest.Trusted)
	w.goesOn(id)
	results, err := w.admin.Results(t.Context(), id)
	if err != nil || len(results) != 4 || results[2].Cause != "reimage" || !strings.Contains(results[2].Detail, "gave way to") {
		t.Errorf("history %+v, %v", results, err)
	}

	h.run("/tmp/intruder", "not approved")
	before := w.verdict(id, attest.Failed)
	h.stop()
	reimage()
	w.eventually("evidence of the new AK is accepted", func() bool {
		node, err := w.admin.Node(t.Context(), id)
		return err == nil && node.Accepted > before.Accepted+1
	})
	w.verdict(id, attest.Failed)

	h.stop()
	if err := h.emulator.Cycle(t.Context(), swtpm.Reboot); err != nil {
		t.Fatal(err)
	}
	h.boot()
	h.config.Listen = freeAddress(t)
	reimage() // the new boot was never seen under the old AK
	w.verdict(id, attest.Trusted)
}

// An agent renews its certificate while it runs, registers it and is followed.
func TestCertificateIsRenewed(t *testing.T) {
	w := newWorld(t)
	h := w.newHost()
	var later atomic.Int64
	h.now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	// A start in the past leaves a certificate that is to be renewed in two days.
	later.Store(int64(-time.Until(time.Now().AddDate(10, -1, 0)) + 48*time.Hour))
	path := filepath.Join(h.config.StateDir, "tls-cert.pem")
	h.start()
	w.eventually("the agent has a certificate", func() bool {
		_, err := os.Stat(path)
		return err == nil
	})
	h.stop()
	later.Store(0)
	h.start()
	id := w.registered(1)[0]
	w.enrol(h, id)
	w.verdict(id, attest.Trusted)
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	later.Store(int64(72 * time.Hour))
	w.eventually("the certificate is renewed", func() bool {
		second, err := os.ReadFile(path)
		return err == nil && string(second) != string(first)
	})
	w.goesOn(id)
}

package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/assay-project/assay/agent"
	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/ima"
	"github.com/assay-project/assay/internal/conf"
	"github.com/assay-project/assay/internal/swtpm"
	"github.com/assay-project/assay/policy"
)

// registered waits until an agent is known to the registrar and returns its name.
func (w *world) registered(number int) []attest.AgentID {
	w.t.Helper()
	var ids []attest.AgentID
	w.eventually("the agent registers", func() bool {
		agents, err := w.admin.Registered(w.t.Context())
		ids = nil
		for _, one := range agents {
			ids = append(ids, one.Agent)
		}
		return err == nil && len(ids) == number
	})
	return ids
}

// approve makes a Runtime document of what the host has measured and stores it.
func (w *world) approve(h *host) string {
	w.t.Helper()
	text, err := os.ReadFile(h.config.IMAList)
	if err != nil {
		w.t.Fatal(err)
	}
	list, err := ima.ParseASCII(text)
	if err != nil {
		w.t.Fatal(err)
	}
	document, err := policy.BuildRuntime(w.t.Context(), policy.BuildOptions{Name: "golden", List: &list})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.admin.AddPolicy(w.t.Context(), document.Bytes(), ""); err != nil {
		w.t.Fatal(err)
	}
	return document.Name()
}

// enrol accepts the host's TPM maker and enrols the agent with a policy of what it has measured.
func (w *world) enrol(h *host, id attest.AgentID) {
	w.t.Helper()
	if _, err := w.admin.AddRoots(w.t.Context(), h.roots); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.admin.Enrol(w.t.Context(), api.EnrolRequest{ID: id, Policies: []string{w.approve(h)}, Interval: 1}); err != nil {
		w.t.Fatal(err)
	}
}

// The whole way: registration by a pin, enrolment, trust; the agent is restarted, the machine runs what nobody approved, reboots, is trusted.
func TestAttest(t *testing.T) {
	w := newWorld(t)
	h := w.newHost()
	token, err := w.admin.CreateToken(t.Context(), api.TokenRequest{Lifetime: 3600})
	if err != nil {
		t.Fatal(err)
	}
	h.config.CA, h.config.JoinToken, h.config.ID = "", conf.Secret(token.Text), "node-7"
	h.start()
	w.enrol(h, w.registered(1)[0])
	w.verdict("node-7", attest.Trusted)
	w.eventually("the agent's report", func() bool {
		node, err := w.admin.Node(t.Context(), "node-7")
		return err == nil && node.Heartbeat != nil && len(node.Heartbeat.Preflight) > 0
	})

	h.stop()
	h.start()
	before := w.verdict("node-7", attest.Trusted)
	w.eventually("rounds go on after the agent's restart", func() bool {
		node, err := w.admin.Node(t.Context(), "node-7")
		return err == nil && node.Verdict == attest.Trusted && node.Accepted > before.Accepted+1
	})

	h.run("/tmp/intruder", "not approved")
	failed := w.verdict("node-7", attest.Failed)
	if len(failed.Failures) != 1 || failed.Failures[0].ID != attest.FileNotInPolicy || failed.Failures[0].Path != "/tmp/intruder" {
		t.Errorf("failures %+v, want FileNotInPolicy of /tmp/intruder alone", failed.Failures)
	}

	h.stop()
	if err := h.emulator.Cycle(t.Context(), swtpm.Reboot); err != nil {
		t.Fatal(err)
	}
	h.boot()
	h.start()
	after := w.verdict("node-7", attest.Trusted)
	if after.Boot == failed.Boot {
		t.Error("the reboot is taken for the same boot")
	}
}

// A file name with a newline shifts no position: both sides count entries, not lines.
func TestNewlineInName(t *testing.T) {
	w := newWorld(t)
	h := w.newHost()
	h.run("/tmp/two\nlines", "approved")
	h.run("/usr/bin/true", "true")
	h.start()
	id := w.registered(1)[0]
	w.enrol(h, id)
	first := w.verdict(id, attest.Trusted)
	h.run("/usr/bin/true", "true")
	w.eventually("the next entry is proven", func() bool {
		node, err := w.admin.Node(t.Context(), id)
		return err == nil && node.Verdict == attest.Trusted && node.Position == first.Position+1
	})
}

// A file may have a name that is not UTF-8. Excluded, it does no harm; not approved, it fails the machine by name.
func TestNameThatIsNotUTF8(t *testing.T) {
	w := newWorld(t)
	h, id := w.trusted()
	text := "apiVersion: policy.assay/v1\nkind: Runtime\nmetadata: {name: excluding}\nspec:\n  excludes: [\"/srv/.*\"]\n" +
		fmt.Sprintf("  digests:\n    /usr/bin/sh: [%q]\n    /etc/ima/ima-policy: [%q]\n",
			attest.SHA256.Sum([]byte("a shell")), attest.SHA256.Sum([]byte("measure func=BPRM_CHECK\n")))
	if _, err := w.admin.AddPolicy(t.Context(), []byte(text), ""); err != nil {
		t.Fatal(err)
	}
	names := []string{"excluding"}
	if _, err := w.admin.UpdateNode(t.Context(), id, api.NodeUpdate{Policies: &names}); err != nil {
		t.Fatal(err)
	}
	before := w.verdict(id, attest.Trusted)
	h.run("/srv/a\xffb", "anybody's")
	w.eventually("the entry is proven", func() bool {
		node, err := w.admin.Node(t.Context(), id)
		return err == nil && node.Position == before.Position+1
	})
	if node, err := w.admin.Node(t.Context(), id); err != nil || node.Verdict != attest.Trusted {
		t.Errorf("%s: %+v, %v", node.Verdict, node.Failures, err)
	}
	w.goesOn(id)
	h.run("/opt/a\xffb", "not approved")
	failed := w.verdict(id, attest.Failed)
	if len(failed.Failures) != 1 || failed.Failures[0].ID != attest.FileNotInPolicy || failed.Failures[0].Path != `/opt/a\xffb` {
		t.Errorf("failures %+v, want FileNotInPolicy of the escaped name alone", failed.Failures)
	}
}

// A cleared TPM cannot load the AK any more. The agent makes a new one, and a person has to approve it.
func TestClearedTPM(t *testing.T) {
	w := newWorld(t)
	h := w.newHost()
	h.start()
	id := w.registered(1)[0]
	h.stop()
	device, err := linuxudstpm.Open(h.emulator.Socket())
	if err != nil {
		t.Fatal(err)
	}
	lockout := tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}
	if _, err := (tpm2.Clear{AuthHandle: lockout}).Execute(device); err != nil {
		t.Fatal(err)
	}
	if err := device.Close(); err != nil {
		t.Fatal(err)
	}
	h.start()
	w.eventually("the new AK waits for approval", func() bool {
		waiting, err := w.admin.Pending(t.Context())
		return err == nil && len(waiting) == 1 && waiting[0].Agent == id
	})
	if err := w.admin.Approve(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	w.enrol(h, id)
	w.verdict(id, attest.Trusted)
}

// Each kind of keys that an agent may have is registered, activated and attested.
func TestKindsOfKeys(t *testing.T) {
	w := newWorld(t)
	for i, kinds := range []struct{ ek, ak string }{{"rsa2048", "ecc256"}, {"ecc384", "rsa2048"}} {
		t.Run(kinds.ek+" "+kinds.ak, func(t *testing.T) {
			h := w.newHost()
			h.config.EK, h.config.AK = kinds.ek, kinds.ak
			h.start()
			ids := w.registered(i + 1)
			for _, id := range ids {
				if _, err := w.admin.Node(t.Context(), id); err != nil {
					w.enrol(h, id)
					w.verdict(id, attest.Trusted)
				}
			}
		})
	}
}

// What ends an agent for good says what a person does about it.
func TestBadToken(t *testing.T) {
	w := newWorld(t)
	h := w.newHost()
	token, err := w.admin.CreateToken(t.Context(), api.TokenRequest{Lifetime: 3600})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.admin.RevokeToken(t.Context(), token.ID); err != nil {
		t.Fatal(err)
	}
	h.config.JoinTokenFile, h.config.ID = filepath.Join(t.TempDir(), "token"), "node-7"
	if err := os.WriteFile(h.config.JoinTokenFile, []byte(token.Text), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(h.config, agent.Environment{})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); !errors.Is(err, agent.ErrRefused) || !strings.Contains(err.Error(), "join token") {
		t.Errorf("error %v, want a refusal that speaks of the join token", err)
	}
}

package registrar_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/registrar"
	"github.com/assay-project/assay/wire"
)

const differentIdentity = "Agent re-registration with different TPM identity is forbidden for security reasons"

func TestRegisterActivateShowDelete(t *testing.T) {
	w := newWorld(t)
	tpm := newTPM(t, 0)
	w.vendor.endorse(tpm, 7)
	id := tpm.id()

	a, blob := w.register(id, tpm.request())
	w.want(a, 200, "Success")
	_, a = w.show(id)
	w.want(a, 404, "has not been activated")

	a = w.call("", "PUT", "/v2.6/agents/"+string(id), wire.ActivateRequest{AuthTag: tpm.proof(blob, id)})
	w.want(a, 200, "Success")
	if a.body != `{"code":200,"status":"Success","results":{}}` {
		t.Errorf("activation answers %s", a.body)
	}

	shown, a := w.show(id)
	w.want(a, 200, "Success")
	ip, port, disabled := "10.0.3.7", 9002, "disabled"
	want := wire.AgentRecord{
		AgentID: string(id), EK: tpm.ekPublic(), EKCert: tpm.request().EKCert[0], AIK: tpm.ak.Public(),
		IP: &ip, Port: &port, Certificate: &disabled, RegCount: 1,
	}
	if diff := cmp.Diff(want, shown); diff != "" {
		t.Error(diff)
	}
	if record := w.store.records[id]; record.Active.EndorsedBy != "CN=Test TPM vendor" || record.Active.NotEndorsed != "" || record.EK != id {
		t.Errorf("endorsed by %q, not because %q, EK %s", record.Active.EndorsedBy, record.Active.NotEndorsed, record.EK)
	}
	w.want(w.call(mtls.Viewer, "GET", "/v2.1/agents/", nil), 200, "Success")

	w.want(w.call(mtls.Operator, "DELETE", "/v2.6/agents/"+string(id), nil), 200, "Success")
	w.want(w.call(mtls.Operator, "DELETE", "/v2.6/agents/"+string(id), nil), 404, "Agent with ID '"+string(id)+"' not found")
	_, a = w.show(id)
	w.want(a, 404, "not found")
}

// An agent without certificate, or with one of a vendor that we do not know, is registered; the reason is kept for whoever enrols it.
func TestNotEndorsedIsRecorded(t *testing.T) {
	w := newWorld(t)
	bare, foreign := newTPM(t, 0), newTPM(t, 1)
	newVendor(t, 0, w.now).endorse(foreign, 3)
	garbled := newTPM(t, 2)
	for tpm, want := range map[*softTPM]string{bare: "no certificate", foreign: "unknown authority", garbled: "certificate 0 of the chain"} {
		w.join(tpm.id(), tpm, func(r *wire.RegisterRequest) {
			if tpm == garbled {
				r.EKCert = wire.CertificateChain{[]byte("no DER")}
			}
		})
		record := w.store.records[tpm.id()]
		if record.Active == nil || record.Active.EndorsedBy != "" || !strings.Contains(record.Active.NotEndorsed, want) {
			t.Errorf("got %+v, want %q", record.Active, want)
		}
	}
}

func TestUnchangedRegistrationKeepsTheAgentActive(t *testing.T) {
	w := newWorld(t)
	tpm := newTPM(t, 0)
	id := tpm.id()
	w.join(id, tpm)
	moved := tpm.request()
	moved.IP, moved.Port = "fd00::"+strings.Repeat("0:", 20)+"7.example.invalid", 1
	a, blob := w.register(id, moved)
	w.want(a, 200, "Success")

	shown, a := w.show(id)
	w.want(a, 200, "Success")
	if *shown.IP != "10.0.3.7" {
		t.Errorf("an unproven registration changed the address to %s", *shown.IP)
	}
	w.want(w.call("", "POST", "/v2/agents/"+string(id)+"/activate", wire.ActivateRequest{AuthTag: tpm.proof(blob, id)}), 200, "Success")
	shown, _ = w.show(id)
	if *shown.IP != moved.IP || *shown.Port != 1 || shown.RegCount != 1 {
		t.Errorf("got %s:%d, regcount %d", *shown.IP, *shown.Port, shown.RegCount)
	}
}

// Anybody who knows the id can send a wrong tag, so it discards nothing: neither what is active nor what is pending.
func TestWrongTagDiscardsNothing(t *testing.T) {
	w := newWorld(t)
	tpm := newTPM(t, 0)
	id := tpm.id()
	path := "/v2.6/agents/" + string(id)
	wrong := func() {
		t.Helper()
		w.from = "198.51.100.1:1"
		for _, tag := range []string{"00", strings.Repeat("0", 96)} {
			w.want(w.call("", "PUT", path, wire.ActivateRequest{AuthTag: tag}), 400, "does not match expected value")
		}
		w.from = ""
	}
	for range 2 {
		_, blob := w.register(id, tpm.request())
		wrong()
		w.want(w.call("", "PUT", path, wire.ActivateRequest{AuthTag: tpm.proof(blob, id)}), 200, "Success")
		_, a := w.show(id)
		w.want(a, 200, "Success")
	}
	w.want(w.call("", "PUT", path, wire.ActivateRequest{AuthTag: "00"}), 404, "no registration that waits for its activation")
}

// A proof settles its own registration: others' stay, and the machine's own earlier ones cannot bring back what it said before.
func TestProofLeavesOthersPending(t *testing.T) {
	w := newWorld(t)
	tpm, stranger := newTPM(t, 0), newTPM(t, 1)
	id := tpm.id()
	path := "/v2.6/agents/" + string(id)
	before := tpm.request()
	before.IP = "10.0.3.8"
	_, first := w.register(id, before)
	_, foreign := w.register(id, stranger.request())
	_, second := w.register(id, tpm.request())
	w.want(w.call("", "PUT", path, wire.ActivateRequest{AuthTag: stranger.proof(foreign, id)}), 200, "Success")
	w.want(w.call("", "PUT", path, wire.ActivateRequest{AuthTag: tpm.proof(second, id)}), 200, "Success")
	w.want(w.call("", "PUT", path, wire.ActivateRequest{AuthTag: tpm.proof(first, id)}), 404, "no registration that waits for its activation")
	if shown, _ := w.show(id); shown.IP == nil || *shown.IP != "10.0.3.7" {
		t.Errorf("shown: %+v", shown)
	}
}

// Public keys are public: who replays another's must not get in its way.
func TestStrangerWhoReplaysPublicKeysBlocksNobody(t *testing.T) {
	w := newWorld(t)
	tpm := newTPM(t, 0)
	id := tpm.id()
	_, blob := w.register(id, tpm.request())
	for range 3 {
		stolen := newTPM(t, 0).request() // the machine's EK with the stranger's AK
		a, _ := w.register(id, stolen)
		w.want(a, 200, "Success")
		stolen.JoinToken = joinToken(1)
		a, _ = w.register("stranger", stolen)
		w.want(a, 200, "Success")
	}
	w.want(w.call("", "PUT", "/v2.6/agents/"+string(id), wire.ActivateRequest{AuthTag: tpm.proof(blob, id)}), 200, "Success")
	a, _ := w.register("stranger", tpm.request())
	w.want(a, 403, "belongs to another agent")
}

// Of one address the oldest gives way, and no number of registrations from there pushes out another's.
func TestChallengesPerAgentAreBounded(t *testing.T) {
	w := newWorld(t)
	tpm := newTPM(t, 0)
	id := tpm.id()
	path := "/v2.6/agents/" + string(id)
	_, first := w.register(id, tpm.request())
	w.from = "198.51.100.1:1"
	var strangers []byte
	for i := range 12 {
		a, blob := w.register(id, tpm.request()) // all that is in it is public
		w.want(a, 200, "Success")
		if i == 0 {
			strangers = blob
		}
	}
	if n := len(w.store.records[id].Challenges); n != 8 {
		t.Errorf("%d challenges are kept", n)
	}
	w.from = ""
	w.want(w.call("", "PUT", path, wire.ActivateRequest{AuthTag: tpm.proof(strangers, id)}), 400, "does not match")
	w.want(w.call("", "PUT", path, wire.ActivateRequest{AuthTag: tpm.proof(first, id)}), 200, "Success")
}

func TestChallengeExpires(t *testing.T) {
	w := newWorld(t)
	tpm := newTPM(t, 0)
	id := tpm.id()
	_, blob := w.register(id, tpm.request())
	w.now = w.now.Add(5 * time.Minute)
	w.want(w.call("", "PUT", "/v2.6/agents/"+string(id), wire.ActivateRequest{AuthTag: tpm.proof(blob, id)}), 404, "has expired")
	_, blob = w.register(id, tpm.request())
	w.now = w.now.Add(5*time.Minute - 1)
	w.want(w.call("", "PUT", "/v2.6/agents/"+string(id), wire.ActivateRequest{AuthTag: tpm.proof(blob, id)}), 200, "Success")
}

func TestIdentityChangeIsForbidden(t *testing.T) {
	w := newWorld(t)
	known, other := newTPM(t, 0), newTPM(t, 1)
	w.vendor.endorse(known, 1)
	name := func(r *wire.RegisterRequest) { r.JoinToken = joinToken(1) }
	w.join("node-1", known, name)

	a, _ := w.register("node-1", other.request())
	w.want(a, 403, differentIdentity)
	w.vendor.endorse(known, 2)
	a, _ = w.register("node-1", known.request())
	w.want(a, 403, differentIdentity)
	known.chain = ""
	a, _ = w.register("node-1", known.request())
	w.want(a, 403, differentIdentity)
	w.vendor.endorse(other, 3)
	request := other.request()
	request.JoinToken = joinToken(2)
	a, _ = w.register("node-1", request)
	w.want(a, 403, differentIdentity)

	w.want(w.call(mtls.Administrator, "DELETE", "/v2.6/agents/node-1", nil), 200, "Success")
	w.join("node-1", other, func(r *wire.RegisterRequest) { r.JoinToken = joinToken(2) })
}

func TestEKCertificateMayBeAddedLater(t *testing.T) {
	w := newWorld(t)
	tpm := newTPM(t, 0)
	w.join(tpm.id(), tpm)
	w.vendor.endorse(tpm, 1)
	w.join(tpm.id(), tpm)
	if active := w.store.records[tpm.id()].Active; active.EndorsedBy == "" {
		t.Errorf("not endorsed: %s", active.NotEndorsed)
	}
}

func TestOneEKOneAgent(t *testing.T) {
	w := newWorld(t)
	tpm := newTPM(t, 0)
	w.join(tpm.id(), tpm)
	request := tpm.request()
	request.JoinToken = joinToken(1)
	a, _ := w.register("second", request)
	w.want(a, 403, "its endorsement key belongs to another agent")
	if strings.Contains(a.body, string(tpm.id())) {
		t.Error("the stranger is told the other's name")
	}
	// Two names that were registered before either was proven: the first activation wins.
	w.want(w.call(mtls.Administrator, "DELETE", "/v2.6/agents/"+string(tpm.id()), nil), 200, "Success")
	_, one := w.register(tpm.id(), tpm.request())
	_, two := w.register("second", request)
	w.want(w.call("", "PUT", "/v2.6/agents/second", wire.ActivateRequest{AuthTag: tpm.proof(two, "second")}), 200, "Success")
	w.want(w.call("", "PUT", "/v2.6/agents/"+string(tpm.id()), wire.ActivateRequest{AuthTag: tpm.proof(one, tpm.id())}), 403, "belongs to another agent")
}

func TestNameWithoutTokenWaitsForApproval(t *testing.T) {
	w := newWorld(t)
	tpm := newTPM(t, 0)
	w.vendor.endorse(tpm, 1)
	const reason = "the name is not the hash of the endorsement key and came without a join token"
	if got := w.join("node-1", tpm); got != reason {
		t.Errorf("approval: %q", got)
	}
	_, a := w.show("node-1")
	w.want(a, 404, "waits for approval: "+reason)
	if ids, err := w.reg.List(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("listed: %v, %v", ids, err)
	}
	pending, err := w.reg.Pending(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []api.Pending{{Agent: "node-1", EK: tpm.id(), Reason: reason, At: w.now, Endorsed: true}}
	if diff := cmp.Diff(want, pending); diff != "" {
		t.Error(diff)
	}
	if got := w.join("node-1", tpm); got != reason {
		t.Errorf("registered again: %q", got)
	}
	a, _ = w.register("node-1", newTPM(t, 1).request())
	w.want(a, 403, differentIdentity)

	if err := w.reg.Approve(t.Context(), "node-1"); err != nil {
		t.Fatal(err)
	}
	_, a = w.show("node-1")
	w.want(a, 200, "Success")
	if got := w.join("node-1", tpm); got != "" {
		t.Errorf("approved and registered again: %q", got)
	}
	for _, id := range []attest.AgentID{"node-1", "nobody"} {
		if err := w.reg.Approve(t.Context(), id); !errors.Is(err, registrar.ErrNotFound) {
			t.Errorf("approve %s: %v", id, err)
		}
	}
}

func TestApprovalExpires(t *testing.T) {
	w := newWorld(t, func(c *registrar.Config) { c.ApprovalLifetime = time.Hour })
	tpm := newTPM(t, 0)
	w.join("node-1", tpm)
	w.now = w.now.Add(time.Hour)
	if pending, err := w.reg.Pending(t.Context()); err != nil || len(pending) != 0 {
		t.Errorf("pending: %v, %v", pending, err)
	}
	if err := w.reg.Approve(t.Context(), "node-1"); !errors.Is(err, registrar.ErrNotFound) {
		t.Errorf("approve: %v", err)
	}
	w.register("other", newTPM(t, 1).request()) // sweeps
	if _, left := w.store.records["node-1"]; left {
		t.Error("the record is still there")
	}
}

// A squatter who waits under a name gives way to the machine that was given it.
func TestJoinTokenBeatsWhoWaits(t *testing.T) {
	w := newWorld(t)
	squatter, rightful := newTPM(t, 0), newTPM(t, 1)
	w.join("node-1", squatter)
	if got := w.join("node-1", rightful, func(r *wire.RegisterRequest) { r.JoinToken = joinToken(1) }); got != "" {
		t.Errorf("approval: %q", got)
	}
	record := w.store.records["node-1"]
	if record.Waiting != nil || record.EK != rightful.id() || record.Active.Token != "t1" {
		t.Errorf("got %+v", record)
	}
	a, _ := w.register("node-1", squatter.request())
	w.want(a, 403, differentIdentity)
}

func TestJoinTokens(t *testing.T) {
	w := newWorld(t)
	one, two := newTPM(t, 0), newTPM(t, 1)
	with := func(tpm *softTPM, token string) wire.RegisterRequest {
		r := tpm.request()
		r.JoinToken = token
		return r
	}
	for name, tt := range map[string]struct{ token, detail string }{
		"no token":        {"nonsense", "want ID.SECRET"},
		"short secret":    {"t1.AQEB", "16 to 64 bytes"},
		"unknown":         {"t9.AQEBAQEBAQEBAQEBAQEBAQ", `join token "t9" is not valid for agent 'node-1'`},
		"another's":       {"t1.AgICAgICAgICAgICAgICAg", `join token "t1" is not valid`},
		"control letters": {"\x1b[31m." + strings.Repeat("A", 22), `join token "\x1b[31m" is not valid`},
	} {
		a, _ := w.register("node-1", with(one, tt.token))
		if a.code != 401 || !strings.Contains(a.status(), tt.detail) {
			t.Errorf("%s: got %d %q", name, a.code, a.status())
		}
	}
	if len(w.store.records) != 0 {
		t.Errorf("stored: %v", w.store.records)
	}

	a, _ := w.register("node-1", with(one, joinToken(1)))
	w.want(a, 200, "Success")
	a, _ = w.register("node-2", with(two, joinToken(1)))
	w.want(a, 401, "was used by another agent")
	if got := w.join("node-1", one, func(r *wire.RegisterRequest) { r.JoinToken = joinToken(1) }); got != "" {
		t.Errorf("the same agent again: %q", got)
	}
	w.tokens.secrets = nil // they expire; the agent is known by now and its configuration still holds the token
	if got := w.join("node-1", one, func(r *wire.RegisterRequest) { r.JoinToken = joinToken(1) }); got != "" {
		t.Errorf("after the token expired: %q", got)
	}
	// The default name needs no token, so one that does not hold is no obstacle.
	if got := w.join(two.id(), two, func(r *wire.RegisterRequest) { r.JoinToken = joinToken(2) }); got != "" {
		t.Errorf("default name: %q", got)
	}
}

func TestWithoutTokens(t *testing.T) {
	w := newWorld(t, func(c *registrar.Config) { c.Tokens = nil })
	r := newTPM(t, 0).request()
	r.JoinToken = joinToken(1)
	a, _ := w.register("node-1", r)
	w.want(a, 401, "this registrar has none")
}

// Nobody keeps a machine from its default name by waiting under it: names of that form are known wherever the machine was seen before.
func TestMachineBeatsWhoWaitsUnderItsHash(t *testing.T) {
	w := newWorld(t)
	squatter, rightful := newTPM(t, 0), newTPM(t, 1)
	if got := w.join(rightful.id(), squatter); got == "" {
		t.Fatal("another's hash needed no approval")
	}
	if got := w.join(rightful.id(), rightful); got != "" {
		t.Errorf("approval: %q", got)
	}
	record := w.store.records[rightful.id()]
	if record.Waiting != nil || record.EK != rightful.id() || record.Active == nil {
		t.Errorf("got %+v", record)
	}
	a, _ := w.register(rightful.id(), squatter.request())
	w.want(a, 403, differentIdentity)
	// Under a name that is nobody's hash, who waits first is who waits.
	w.join("node-1", squatter)
	a, _ = w.register("node-1", newTPM(t, 2).request())
	w.want(a, 403, differentIdentity)
}

func TestReimagedMachine(t *testing.T) {
	w := newWorld(t)
	before, after := newTPM(t, 0), newTPM(t, 0)
	id := before.id()
	w.join(id, before)
	const reason = "a reimaged machine or a cleared TPM"
	if got := w.join(id, after); !strings.Contains(got, reason) {
		t.Errorf("approval: %q", got)
	}
	shown, _ := w.show(id)
	if !slices.Equal(shown.AIK, before.ak.Public()) {
		t.Error("the new AK is shown before its approval")
	}
	if got := w.join(id, before); got != "" {
		t.Errorf("the old AK: %q", got)
	}
	if pending, err := w.reg.Pending(t.Context()); err != nil || len(pending) != 1 {
		t.Errorf("pending: %v, %v", pending, err)
	}
	if err := w.reg.Approve(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if shown, _ = w.show(id); !slices.Equal(shown.AIK, after.ak.Public()) || shown.RegCount != 2 {
		t.Errorf("after the approval: regcount %d, AK %x", shown.RegCount, shown.AIK[:20])
	}
}

func TestReimageAllowed(t *testing.T) {
	w := newWorld(t, func(c *registrar.Config) { c.AllowReimage = func(id attest.AgentID) bool { return id != "" } })
	before, after := newTPM(t, 0), newTPM(t, 0)
	w.join(before.id(), before)
	if got := w.join(before.id(), after); got != "" {
		t.Errorf("approval: %q", got)
	}
	if shown, _ := w.show(before.id()); !slices.Equal(shown.AIK, after.ak.Public()) || shown.RegCount != 2 {
		t.Errorf("regcount %d, AK %x", shown.RegCount, shown.AIK[:20])
	}
	// Another TPM stays forbidden.
	a, _ := w.register(before.id(), newTPM(t, 1).request())
	w.want(a, 403, differentIdentity)
}

func TestBounds(t *testing.T) {
	stranger := func(w *world) *softTPM { return newTPM(w.t, 0) }
	tests := []struct {
		name, detail string
		set          func(*registrar.Config)
		fill         func(w *world)
		// again is whether there is room when what filled it has expired.
		again bool
	}{
		{"unproven", "1 agents are not yet activated", func(c *registrar.Config) { c.MaxUnproven = 1 }, func(w *world) { w.register("a", stranger(w).request()) }, true},
		{"waiting", "1 agents are waiting for approval", func(c *registrar.Config) { c.MaxWaiting = 1 }, func(w *world) { w.join("a", stranger(w)) }, true},
		{"unendorsed", "1 agents are without an endorsed EK", func(c *registrar.Config) { c.MaxUnendorsed = 1 }, func(w *world) { w.join(stranger(w).id(), stranger(w)) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, tt.set)
			tt.fill(w)
			late := newTPM(t, 1)
			id := attest.AgentID("late")
			if tt.name == "unendorsed" {
				id = late.id()
			}
			a, _ := w.register(id, late.request())
			w.want(a, 503, tt.detail)
			if got := a.header.Get("Retry-After"); got != "60" {
				t.Errorf("Retry-After is %q", got)
			}
			w.now = w.now.Add(8 * 24 * time.Hour)
			a, _ = w.register(id, late.request())
			if tt.again {
				w.want(a, 200, "Success")
			} else {
				w.want(a, 503, tt.detail)
			}
		})
	}
}

// Whoever fills the room of what is unproven from one address keeps himself out, and nobody else.
func TestUnprovenRoomIsSharedOut(t *testing.T) {
	w := newWorld(t, func(c *registrar.Config) { c.MaxUnproven = 3 })
	flood, machine := newTPM(t, 0), newTPM(t, 1)
	w.from = "198.51.100.1:1"
	for _, id := range []attest.AgentID{"s1", "s2", "s3"} {
		a, _ := w.register(id, flood.request())
		w.want(a, 200, "Success")
		w.now = w.now.Add(time.Second)
	}
	a, _ := w.register("s4", flood.request())
	w.want(a, 503, "3 agents are not yet activated")
	w.from = ""
	a, blob := w.register(machine.id(), machine.request())
	w.want(a, 200, "Success")
	if _, left := w.store.records["s1"]; left || len(w.store.records) != 3 {
		t.Errorf("%d records, the oldest of the flood: %v", len(w.store.records), left)
	}
	w.from = "198.51.100.1:1"
	a, _ = w.register("s4", flood.request())
	w.want(a, 503, "3 agents are not yet activated")
	w.from = ""
	w.want(w.call("", "PUT", "/v2.6/agents/"+string(machine.id()), wire.ActivateRequest{AuthTag: machine.proof(blob, machine.id())}), 200, "Success")
}

// Endorsed machines get in however many strangers have come with keys of their own making.
func TestEndorsedAgentsHaveRoom(t *testing.T) {
	w := newWorld(t, func(c *registrar.Config) { c.MaxUnendorsed = 1 })
	stranger, genuine := newTPM(t, 0), newTPM(t, 1)
	w.join(stranger.id(), stranger)
	w.vendor.endorse(genuine, 1)
	w.join(genuine.id(), genuine)
	w.join(stranger.id(), stranger) // nor is a known one kept out
}

// Every write is tried failing twice: not stored, and stored but reported as failed. The agent tries again in both cases.
// A machine that is known waits for its new key however many strangers wait for a name.
func TestReimagedMachinesHaveRoom(t *testing.T) {
	w := newWorld(t, func(c *registrar.Config) { c.MaxWaiting = 1 })
	known, stranger := newTPM(t, 0), newTPM(t, 1)
	w.join(known.id(), known)
	w.join("stranger", stranger)
	reimaged := newTPM(t, 0)
	if got := w.join(known.id(), reimaged); !strings.Contains(got, "a reimaged machine") {
		t.Errorf("approval: %q", got)
	}
	a, _ := w.register("late", newTPM(t, 2).request())
	w.want(a, 503, "waiting for approval")
}

func TestFailingStore(t *testing.T) {
	for name, breakIt := range map[string]func(m *memory, broken bool){
		"not stored":                    func(m *memory, broken bool) { m.refuse = broken },
		"stored but reported as failed": func(m *memory, broken bool) { m.lose = broken },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tpm := newTPM(t, 0)
			id := tpm.id()
			path := "/v2.6/agents/" + string(id)
			breakIt(w.store, true)
			a, _ := w.register(id, tpm.request())
			w.want(a, 500, "its log says why")
			breakIt(w.store, false)
			_, blob := w.register(id, tpm.request())
			breakIt(w.store, true)
			w.want(w.call("", "PUT", path, wire.ActivateRequest{AuthTag: tpm.proof(blob, id)}), 500, "its log says why")
			breakIt(w.store, false)
			if got := w.join(id, tpm); got != "" {
				t.Errorf("approval: %q", got)
			}
			if shown, _ := w.show(id); shown.RegCount != 1 {
				t.Errorf("regcount %d", shown.RegCount)
			}
			breakIt(w.store, true)
			w.want(w.call(mtls.Administrator, "DELETE", path, nil), 500, "its log says why")
			if err := w.reg.Approve(t.Context(), id); err == nil {
				t.Error("approval of an active agent succeeded")
			}
			if !strings.Contains(w.log.String(), errBroken.Error()) {
				t.Error("the log does not say why")
			}
		})
	}
}

func TestListHasAllPages(t *testing.T) {
	w := newWorld(t)
	want := []string{}
	for i := range 1203 {
		id := attest.AgentID(strings.Repeat("n", 1+i%7) + strings.Repeat("0", i/7))
		w.store.records[id] = registrar.Record{ID: id, Active: &registrar.Registration{}}
	}
	for id := range w.store.records {
		want = append(want, string(id))
	}
	slices.Sort(want)
	got, err := w.reg.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

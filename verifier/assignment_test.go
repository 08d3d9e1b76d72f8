package verifier

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/verifier/boxtest"
)

// maker is an authority that endorses TPMs, with the chain that it made for the boxes' EK.
type maker struct {
	root        []byte // DER
	fingerprint attest.Digest
	leaf        []byte
}

func (m maker) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.root})
}

func newMaker(t *testing.T, now time.Time) maker {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Maker"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ek, err := endorsement.ParseEK(boxtest.EKPublic())
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "EK"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour),
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}}, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageKeyAgreement,
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, ek.Key(), key)
	if err != nil {
		t.Fatal(err)
	}
	return maker{der, attest.SHA256.Sum(der), leafDER}
}

// enrolEndorsed enrols a box whose EK the maker endorses.
func (f *fleet) enrolEndorsed(m maker, emulated bool, policies ...string) *boxtest.Box {
	f.t.Helper()
	b := boxtest.New(f.t)
	f.on(func() { f.boxes[string(node1)] = b })
	e := enrolment(b, node1, policies...)
	e.FirstUse, e.Chain = false, [][]byte{m.leaf}
	if _, err := e.Roots.AddPEM(m.pem()); err != nil {
		f.t.Fatal(err)
	}
	if emulated {
		e.EmulatedRoots = []attest.Digest{m.fingerprint}
	}
	if _, err := f.v.Enrol(f.t.Context(), e); err != nil {
		f.t.Fatal(err)
	}
	return b
}

// Whom an assignment accepts as endorser is judged with the evidence: the same evidence passes under another assignment.
func TestEndorsersThatAnAssignmentDoesNotName(t *testing.T) {
	for name, tt := range map[string]struct {
		emulated bool
		refuses  func(own attest.Digest) []attest.Digest
		accepts  func(own attest.Digest) []attest.Digest
	}{
		"an emulator that nobody names":        {true, func(attest.Digest) []attest.Digest { return nil }, func(own attest.Digest) []attest.Digest { return []attest.Digest{own} }},
		"an emulator beside a named maker":     {true, named("other"), func(own attest.Digest) []attest.Digest { return append(named("other")(own), own) }},
		"a maker where another one is named":   {false, named("other"), func(attest.Digest) []attest.Digest { return nil }},
		"a maker where others are named first": {false, named("a", "b"), func(own attest.Digest) []attest.Digest { return append(named("a")(own), own) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
				f.start()
				m := newMaker(t, time.Now())
				f.enrolEndorsed(m, tt.emulated, "base")
				f.assign(node1, api.Assignment{EndorsedBy: tt.refuses(m.fingerprint)})
				sleep(round)
				n := f.want(node1, attest.Failed)
				if len(n.State.Failures) != 1 || n.State.Failures[0].ID != attest.EkNotEndorsed || n.Enrolment.Emulated != tt.emulated {
					t.Errorf("failures %v, enrolment %+v", n.State.Failures, n.Enrolment)
				}
				f.assign(node1, api.Assignment{EndorsedBy: tt.accepts(m.fingerprint)})
				sleep(round)
				f.want(node1, attest.Trusted)
				f.assign(node1, api.Assignment{EndorsedBy: tt.refuses(m.fingerprint)})
				sleep(round)
				f.want(node1, attest.Failed)
				f.end()
			})
		})
	}
}

func named(roots ...string) func(attest.Digest) []attest.Digest {
	var all []attest.Digest
	for _, r := range roots {
		all = append(all, attest.SHA256.Sum([]byte(r)))
	}
	return func(attest.Digest) []attest.Digest { return slices.Clone(all) }
}

// A root that is named does not let a TPM in that nobody endorsed; and without a policy an emulator is Unappraised as everything else.
func TestEndorsersOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
		f.start()
		f.enrol("node-2", "base")
		f.assign("node-2", api.Assignment{EndorsedBy: named("a")(attest.Digest{})})
		f.enrolEndorsed(newMaker(t, time.Now()), true)
		sleep(round)
		if n := f.want("node-2", attest.Failed); n.State.Failures[0].ID != attest.EkNotEndorsed {
			t.Errorf("failures %v", n.State.Failures)
		}
		f.want(node1, attest.Unappraised)
		f.end()
	})
}

const containersPolicy = "dont_measure fsmagic=0x794c7630\n"

// containersDocument approves the IMA policy for hosts with containers.
func containersDocument(t *testing.T) *policy.Document {
	t.Helper()
	text := strings.TrimSuffix(string(boxtest.Document(t, "base", "/usr/bin/a").Bytes()), "\n") +
		fmt.Sprintf("\n  imaPolicies: [%q]\n  earlyBoot: [/usr/lib/systemd/systemd, /usr/bin/assay-agent]\n", attest.SHA256.Sum([]byte(containersPolicy)))
	d, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestContainerFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, containersDocument(t))
		f.cfg.ContainerIMAPolicies = []attest.Digest{attest.SHA256.Sum([]byte(containersPolicy))}
		f.start()
		served := &API{cfg: APIConfig{Verifier: f.v}, reports: newReports(func(attest.AgentID) bool { return true })}
		b := f.enrol(node1, "base")
		f.on(func() { b.Measure(policy.PolicyPath, attest.SHA256.Sum([]byte(containersPolicy))) })
		sleep(round)
		for _, a := range []api.Assignment{{}, {ContainerFiles: api.ContainerFilesFail}} {
			f.assign(node1, a)
			sleep(round)
			n := f.want(node1, attest.Failed)
			if n.State.Failures[0].ID != attest.ImaPolicyNotApproved || len(n.coverage()) != 0 {
				t.Errorf("%q: failures %v, coverage %v", a.ContainerFiles, n.State.Failures, n.coverage())
			}
			if served.view(n).IMAPolicy {
				t.Errorf("%q: the policy is shown as approved", a.ContainerFiles)
			}
		}
		f.assign(node1, api.Assignment{ContainerFiles: api.ContainerFilesIgnore})
		sleep(round)
		if n := f.want(node1, attest.Trusted); !slices.Equal(n.coverage(), []string{api.CoverageContainerFilesIgnored}) {
			t.Errorf("coverage %v", n.coverage())
		}
		if !served.view(f.node(node1)).IMAPolicy {
			t.Error("the policy is not shown as approved")
		}
		f.on(func() { b.Run("/usr/bin/evil", "") }) // what the host runs is judged all the same
		sleep(round)
		if n := f.want(node1, attest.Failed); n.State.Failures[0].ID != attest.FileNotInPolicy {
			t.Errorf("failures %v", n.State.Failures)
		}
		f.end()
	})
}

const assignedByWorkers = `{"owner":"NodePolicy/workers","mode":"Enforce","reactions":["Taint"],"budget":1}`

// eventually tries until an operator's view is as wanted.
func (s *site) eventually(what string, is func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s did not happen", what)
		}
	}
}

// The operator's way through the API: enrol with an assignment, see the failure's reaction, claim, report; people look and suspend.
func TestReactionsOverTheAPI(t *testing.T) {
	s := newSite(t)
	operator, admin := s.as(mtls.Operator), s.as(mtls.Administrator)
	s.into(admin, call{method: "POST", path: api.PathPolicies, body: string(boxtest.Document(t, "base", "/usr/bin/a").Bytes()), kind: "application/octet-stream"}, nil)
	var n api.Node
	s.into(operator, call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true,"interval":1,"policies":["base"],"assignment":` + assignedByWorkers + `}`}, &n)
	if n.Assignment.Owner != "NodePolicy/workers" || n.Coverage == nil {
		t.Errorf("node %+v", n)
	}
	refusals := func(want int, says string, client *http.Client, c call) {
		t.Helper()
		if status, text := s.do(client, c); status != want || !strings.Contains(string(text), says) {
			t.Errorf("%s %s %s: %d %s, want %d with %q", c.method, c.path, c.body, status, text, want, says)
		}
	}
	node := api.PathNodes + "/node-1"
	refusals(409, "assigned by NodePolicy/workers; change that object", admin, call{method: "PATCH", path: node, body: `{"policies":[]}`})
	refusals(409, "assigned by NodePolicy/workers; change that object", admin, call{method: "PATCH", path: node, body: `{"assignment":{}}`})
	refusals(409, "no readmission waits", admin, call{method: "POST", path: node + "/approve"})
	var suspension api.Suspension
	s.into(admin, call{method: "PUT", path: api.PathSuspension, body: `{"suspended":true,"reason":"maintenance"}`}, &suspension)
	if !suspension.Suspended || suspension.By != "some administrator" || suspension.At.IsZero() {
		t.Errorf("suspension %+v", suspension)
	}
	s.boxes["node-1"].Run("/usr/bin/evil", "")
	var page api.Page[api.Reaction]
	list := func(query string) []api.Reaction {
		page = api.Page[api.Reaction]{}
		s.into(admin, call{method: "GET", path: api.PathReactions + query}, &page)
		return page.Items
	}
	s.eventually("a reaction", func() bool { return len(list("?state=open")) == 1 })
	if r := page.Items[0]; r.State != api.ReactionWaiting || !strings.Contains(r.Detail, "suspended by some administrator: maintenance") {
		t.Errorf("reaction %+v", r)
	}
	refusals(409, "is Waiting", operator, call{method: "POST", path: api.PathReactions + "/1/claim"})
	s.into(operator, call{method: "PUT", path: api.PathSuspension, body: `{"suspended":false}`}, nil)
	var r api.Reaction
	s.into(operator, call{method: "POST", path: api.PathReactions + "/1/claim"}, &r)
	if r.State != api.ReactionClaimed || r.ClaimedBy != "some operator" || time.Until(r.Lease) <= 0 {
		t.Errorf("claimed %+v", r)
	}
	refusals(409, "claimed by some operator until", operator, call{method: "POST", path: api.PathReactions + "/1/claim"})
	refusals(400, "detail: want at most", operator, call{method: "POST", path: api.PathReactions + "/1/report", body: `{"done":true,"detail":"\u001b[2J"}`})
	refusals(409, "the report is of claim 0", operator, call{method: "POST", path: api.PathReactions + "/1/report", body: `{"done":true}`})
	s.into(operator, call{method: "POST", path: api.PathReactions + "/1/report", body: `{"claim":1,"done":true,"detail":"tainted"}`}, &r)
	if r.State != api.ReactionApplied || r.Detail != "tainted" {
		t.Errorf("reported %+v", r)
	}
	s.into(operator, call{method: "DELETE", path: node}, nil)
	if got := list("?state=Lifting"); len(got) != 1 {
		t.Errorf("after the removal %+v", got)
	}
	if got := list("?limit=1"); len(got) != 1 || page.Next != "1" || len(list("?limit=1&cursor=1")) != 0 || page.Next != "" {
		t.Errorf("pages %+v, next %q", got, page.Next)
	}
}

func TestBadAssignmentsAndReactions(t *testing.T) {
	s := newSite(t)
	operator, admin := s.as(mtls.Operator), s.as(mtls.Administrator)
	enrol := func(assignment string) call {
		return call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true,"assignment":` + assignment + `}`}
	}
	roots := call{method: "POST", path: api.PathEndorsements, body: string(newMaker(t, time.Now()).pem()), kind: "application/octet-stream"}
	with := func(c call, query string) call { c.path += query; return c }
	for name, tt := range map[string]struct {
		client *http.Client
		call
		want int
		says []string
	}{
		"every mistake at once":         {operator, enrol(`{"owner":"x","mode":"Sometimes","budget":-1,"whenSilent":{"reactions":["Cordon"],"after":0}}`), 400, []string{"assignment.mode", "assignment.budget", "whenSilent.reactions[0]", "whenSilent.after"}},
		"reactions without an owner":    {operator, enrol(`{"mode":"Enforce","reactions":["Taint"]}`), 400, []string{"reactions take the budget of an owner"}},
		"an unknown member":             {operator, enrol(`{"ownr":"x"}`), 400, []string{"ownr"}},
		"an owner by an administrator":  {admin, enrol(assignedByWorkers), 403, []string{"only role operator assigns"}},
		"a state that is none":          {admin, call{method: "GET", path: api.PathReactions + "?state=Loud"}, 400, []string{`"Loud"`, "Waiting"}},
		"a cursor that is none":         {admin, call{method: "GET", path: api.PathReactions + "?cursor=-1"}, 400, []string{`"-1"`}},
		"a claim of nothing":            {operator, call{method: "POST", path: api.PathReactions + "/7/claim"}, 404, []string{"reaction 7"}},
		"a claim of a word":             {operator, call{method: "POST", path: api.PathReactions + "/seven/claim"}, 404, []string{`"seven"`}},
		"a report on nothing":           {operator, call{method: "POST", path: api.PathReactions + "/7/report", body: `{"done":true}`}, 404, []string{"reaction 7"}},
		"a suspension without a reason": {admin, call{method: "PUT", path: api.PathSuspension, body: `{"suspended":true}`}, 400, []string{"reason: is empty"}},
		"a suspension by another name":  {admin, call{method: "PUT", path: api.PathSuspension, body: `{"suspended":true,"reason":"x","by":"adam"}`}, 400, []string{"the server sets them"}},
		"a vendor's root by operator":   {operator, roots, 403, []string{"only role administrator adds roots of vendors"}},
		"emulated that is no word":      {admin, with(roots, "?emulated=perhaps"), 400, []string{`"perhaps"`}},
	} {
		t.Run(name, func(t *testing.T) {
			status, text := s.do(tt.client, tt.call)
			for _, says := range tt.says {
				if status != tt.want || !strings.Contains(string(text), strings.ReplaceAll(says, `"`, `\"`)) {
					t.Errorf("%d %s, want %d with %q", status, text, tt.want, says)
				}
			}
		})
	}
	var added api.RootsAdded
	s.into(operator, with(roots, "?emulated=true"), &added)
	if len(added.Added) != 1 || !added.Added[0].Emulated {
		t.Errorf("added %+v", added)
	}
	s.into(operator, enrol(assignedByWorkers), nil)
}

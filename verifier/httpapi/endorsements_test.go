package httpapi

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/boxtest"
)

// A listed EK is enrolled without a certificate and without first use, and everybody sees by which word.
func TestListedKeyOverTheAPI(t *testing.T) {
	s := newSite(t)
	admin := s.as(mtls.Administrator)
	ek, err := endorsement.ParseEK(s.agents[node1].EK)
	if err != nil {
		t.Fatal(err)
	}
	enrol := call{method: "POST", path: api.PathNodes, body: `{"id":"node-1"}`}
	list := func(key attest.AgentID) int {
		status, _ := s.do(admin, call{method: "POST", path: api.PathListedKeys, body: text(t, api.ListedKey{EK: key, Note: "rack 7"})})
		return status
	}
	if status := list(attest.EKHash([]byte("another key"))); status != http.StatusCreated {
		t.Fatalf("list another key: %d", status)
	}
	if status, body := s.do(admin, enrol); status != http.StatusUnprocessableEntity || !strings.Contains(string(body), string(attest.EkNotEndorsed)) {
		t.Errorf("with another key listed: %d %s", status, body)
	}
	if status := list("node-1"); status != http.StatusBadRequest {
		t.Errorf("a name is listed: %d", status)
	}
	if status := list(ek.ID()); status != http.StatusCreated {
		t.Fatalf("list the key: %d", status)
	}
	var check api.EndorsementCheck
	s.into(admin, call{method: "GET", path: api.PathEndorsements + "/check/node-1"}, &check)
	if !check.Endorsed || check.Label != "Listed" || check.EndorsedBy != "" {
		t.Errorf("check %+v", check)
	}
	var n api.Node
	s.into(admin, enrol, &n)
	if n.FirstUse || n.Endorsement != "Listed" || n.EndorsedBy != "" {
		t.Errorf("node %+v", n)
	}
	var keys api.Page[api.ListedKey]
	s.into(s.as(mtls.Viewer), call{method: "GET", path: api.PathListedKeys}, &keys)
	if len(keys.Items) != 2 || keys.Items[0].By != "some administrator" || keys.Items[0].Added.IsZero() {
		t.Errorf("keys %+v", keys)
	}
	s.into(admin, call{method: "DELETE", path: api.PathListedKeys + "/" + string(ek.ID())}, nil)
	if status, _ := s.do(admin, call{method: "DELETE", path: api.PathListedKeys + "/" + string(ek.ID())}); status != http.StatusNotFound {
		t.Errorf("remove it again: %d", status)
	}
	check = api.EndorsementCheck{}
	s.into(admin, call{method: "GET", path: api.PathEndorsements + "/check/node-1"}, &check)
	if check.Endorsed || check.Label != "" {
		t.Errorf("after the removal: %+v", check)
	}
}

func TestEndorsementLabels(t *testing.T) {
	for want, e := range map[string]verifier.Enrolment{"Vendor": {EndorsedBy: "CN=Root"}, "Listed": {}, "FirstUse": {FirstUse: true}} {
		if got := endorsementLabel(e); got != want {
			t.Errorf("%+v is %s, want %s", e, got, want)
		}
	}
}

// An operator adds roots of emulators, but marks none that machines are endorsed by: all of those would fail.
func TestOperatorMarksNoVendorAsEmulated(t *testing.T) {
	s := newSite(t)
	bundled, free := boxtest.NewMaker(t, time.Now()), boxtest.NewMaker(t, time.Now())
	vendors := verifier.NewVendorRoots(s.store.Roots(), s.store.Roots(), []verifier.Root{{Fingerprint: bundled.Fingerprint, Subject: "CN=Maker", PEM: bundled.PEM(), Origin: verifier.OriginBundled}}, time.Now)
	s.api.cfg.Roots = vendors
	add := func(role mtls.Role, text []byte) (int, string) {
		path := api.PathEndorsements + "?" + url.Values{"emulated": {"true"}}.Encode()
		status, body := s.do(s.as(role), call{method: "POST", path: path, body: string(text), kind: "application/octet-stream"})
		return status, string(body)
	}
	is := func() (emulated bool) {
		t.Helper()
		roots, err := vendors.Roots(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range roots {
			emulated = emulated || r.Fingerprint == bundled.Fingerprint && r.Emulated
		}
		return emulated
	}
	both := append(free.PEM(), bundled.PEM()...)
	if status, body := add(mtls.Operator, both); status != http.StatusForbidden || !strings.Contains(body, "is accepted as a root of vendors") || is() {
		t.Errorf("an operator: %d %s", status, body)
	}
	if roots, err := s.store.Roots().Roots(t.Context()); err != nil || len(roots) != 0 {
		t.Errorf("of a file that is refused %d roots are stored, %v", len(roots), err)
	}
	for range 2 { // what an operator marked before, it may add again
		if status, body := add(mtls.Operator, free.PEM()); status != http.StatusCreated {
			t.Errorf("a root of nobody's: %d %s", status, body)
		}
	}
	if status, body := add(mtls.Administrator, bundled.PEM()); status != http.StatusCreated || !is() {
		t.Errorf("an administrator: %d %s", status, body)
	}
}

package httpapi

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/verifier/boxtest"
	"github.com/assay-project/assay/wire"
)

// signs reports whether the quote of an answer verifies under the AK beside it.
func signs(t *testing.T, e api.Evidence) bool {
	t.Helper()
	ak, _, err := endorsement.ParseAK(e.AK)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := wire.UnpackQuote(e.Quote)
	if err != nil {
		t.Fatal(err)
	}
	q, err := quote.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := quote.Verify(q, quote.Expected{AK: ak, Nonce: []byte(e.Nonce), Selection: raw.Selections[0]})
	return v.Valid() && v.Digest() == e.Digest
}

// Evidence of an older quote comes with the AK that signed it and the documents that its verdict was made with, whatever the machine and its
// node have become since; once its boot has expired, the answer says so.
func TestEvidenceOfAnOlderQuote(t *testing.T) {
	s := newSite(t)
	viewer, admin := s.as(mtls.Viewer), s.as(mtls.Administrator)
	b := s.boxes["node-1"]
	first, second := boxtest.Document(t, "first"), boxtest.Document(t, "second", "/usr/bin/a")
	for _, d := range [][]byte{first.Bytes(), second.Bytes()} {
		s.into(admin, call{method: "POST", path: api.PathPolicies, body: string(d), kind: "application/octet-stream"}, nil)
	}
	events := s.watchAs(viewer)
	await := func(want attest.Verdict) attest.Digest {
		t.Helper()
		for {
			select {
			case e := <-events:
				if e.To == want {
					return e.Quote
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("the node does not become %s", want)
			}
		}
	}
	s.into(admin, call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true,"policies":["first"],"interval":1}`}, nil)
	old, signedBy := await(attest.Trusted), b.Signer.Public()

	r := registered(b)
	b.Reset()
	b.Reimage()
	r.ID, r.AK, r.EK, r.Address = node1, b.Signer.Public(), boxtest.EKPublic(), "node-1"
	if err := s.verifier.Approve(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	await(attest.Trusted)
	s.into(admin, call{method: "PATCH", path: api.PathNodes + "/node-1", body: `{"policies":["second"]}`}, nil)

	path := api.PathNodes + "/node-1/evidence"
	var now, before api.Evidence
	s.into(viewer, call{method: "GET", path: path}, &now)
	s.into(viewer, call{method: "GET", path: path + "?quote=" + old.String()}, &before)
	if !signs(t, now) || !bytes.Equal(now.AK, b.Signer.Public()) || len(now.Policies) != 1 || now.Policies[0].Name != "second" {
		t.Errorf("last quote: signed by its AK: %t, documents %v", signs(t, now), now.Policies)
	}
	if !signs(t, before) || !bytes.Equal(before.AK, signedBy) || len(before.Policies) != 1 || before.Policies[0].Name != "first" || before.Position == 0 {
		t.Errorf("older quote: signed by its AK: %t, documents %v", signs(t, before), before.Policies)
	}
	if !bytes.Equal(before.EK, boxtest.EKPublic()) || before.Boot == now.Boot || before.Digest != old {
		t.Errorf("older quote: boot %s, digest %s", before.Boot, before.Digest)
	}
	s.into(viewer, call{method: "GET", path: path + "?quote=" + now.Digest.String()}, &before)
	if before.Digest != now.Digest || len(before.Policies) != 1 || before.Policies[0].Name != "second" {
		t.Errorf("the last quote by its name: %+v", before.Policies)
	}

	if gone, err := s.store.Retention().ExpireEvidence(t.Context(), time.Now(), 10); err != nil || gone.Boots != 1 {
		t.Fatalf("expired %+v, %v", gone, err)
	}
	if status, text := s.do(viewer, call{method: "GET", path: path + "?quote=" + old.String()}); status != 410 || !strings.Contains(string(text), "evidence.retention") {
		t.Errorf("expired quote: %d %s", status, text)
	}
	if status, _ := s.do(viewer, call{method: "GET", path: path + "?quote=sha256:" + strings.Repeat("0", 64)}); status != 404 {
		t.Errorf("unknown quote: %d", status)
	}
}

package commands

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
)

// What `node show` and `node history` say of a reimaged machine: what waits, by which command it ends, and which keys changed places.
func TestReimagedMachineIsDescribed(t *testing.T) {
	n := api.Node{
		ID: "node-1", Verdict: attest.Trusted, TpmPresent: true, Assignment: api.Assignment{Reimage: api.ReimageAllow},
		Registration: "a new attestation key \x1b[2J",
	}
	var out bytes.Buffer
	if err := describe(&out, n); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Reimage:       Allow\n", "Registration:  waits for a person: a new attestation key", "let it in with `assay node approve node-1`"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Errorf("an escape sequence reaches the terminal: %q", out.String())
	}
	out.Reset()
	n.Registration, n.Assignment = "", api.Assignment{}
	if err := describe(&out, n); err != nil || strings.Contains(out.String(), "Reimage:") || strings.Contains(out.String(), "Registration:") {
		t.Errorf("of a machine that was not reimaged: %v\n%s", err, out.String())
	}
	row := api.Transition{
		Node: "node-1", At: time.Date(2026, 11, 20, 12, 0, 0, 0, time.Local), From: attest.Trusted, To: attest.Pending, Cause: "reimage",
		Detail: "attestation key 000b01 gave way to 000b02",
	}
	want := "2026-11-20 12:00:00  node-1  Trusted -> Pending (reimage)  attestation key 000b01 gave way to 000b02"
	if have := transitionLine(row); have != want {
		t.Errorf("history is %q, want %q", have, want)
	}
	row.Detail, row.Cause = "", "round"
	if have := transitionLine(row); have != "2026-11-20 12:00:00  node-1  Trusted -> Pending (round)" {
		t.Errorf("history without a detail is %q", have)
	}
}

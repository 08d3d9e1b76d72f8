package nodes

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/client"
)

// TestClaimable: a reaction is asked for while something is left to do, and never when it waits for its budget or is done.
func TestClaimable(t *testing.T) {
	for state, want := range map[api.ReactionState]bool{
		api.ReactionDue: true, api.ReactionLifting: true, api.ReactionClaimed: true, api.ReactionWaiting: false, api.ReactionApplied: false, "Unheard": false, "": false,
	} {
		if got := claimable(api.Reaction{State: state}); got != want {
			t.Errorf("%q: %v", state, got)
		}
	}
}

// TestCauseOf: what an Event says of a failure is the first one, short, and cannot move a cursor.
func TestCauseOf(t *testing.T) {
	m := api.Node{Verdict: attest.Stale}
	if got := causeOf(m); got != "Stale" {
		t.Errorf("%q", got)
	}
	failed(&m)
	m.Failures = append(m.Failures, attest.Failure{ID: attest.Violation})
	if got := causeOf(m); got != "FileDigestMismatch (/usr/bin/␦[2Jx is not what was approved)" {
		t.Errorf("%q", got)
	}
	m.Failures[0].Detail = strings.Repeat("x", 5000)
	if got := causeOf(m); len(got) > maxDetailBytes+100 {
		t.Errorf("%d bytes", len(got))
	}
	if got := kindNames([]api.ReactionKind{api.ReactTaint, api.ReactNotify}); got != "Taint, Notify" {
		t.Errorf("%q", got)
	}
}

// TestRefused: the server's no is told from a server that could not answer, which is asked again.
func TestRefused(t *testing.T) {
	problem := func(status int) error {
		return fmt.Errorf("enrol: %w", &client.ProblemError{Problem: api.Problem{Status: status}})
	}
	for code, want := range map[int]bool{
		http.StatusBadRequest: true, http.StatusConflict: true, http.StatusUnprocessableEntity: true, http.StatusTooManyRequests: false, http.StatusInternalServerError: false, http.StatusServiceUnavailable: false,
	} {
		if got := refused(problem(code)); got != want || status(problem(code)) != code {
			t.Errorf("%d: %v", code, got)
		}
	}
	if refused(nil) || refused(errors.New("connection reset")) || refused(ErrNotConnected) {
		t.Error("what is no answer is taken for a no")
	}
}

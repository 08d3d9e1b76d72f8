package nodes

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

func jwt(claims string) string {
	return "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

// reviewed is a good claim of an agent with a TPM.
func reviewed() evidenceOfClaim {
	return evidenceOfClaim{
		now: now, claim: api.Claim{ID: "1", Agent: agentA, Token: jwt(fmt.Sprintf(`{"exp":%d}`, now.Add(time.Hour).Unix()))},
		accounts: []string{"system:serviceaccount:assay:assay-agent"}, node: node("a", nil),
		review: authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{"assay"}, User: authenticationv1.UserInfo{
			Username: "system:serviceaccount:assay:assay-agent",
			Extra:    map[string]authenticationv1.ExtraValue{extraNodeName: {"a"}, extraNodeUID: {"uid-of-x"}},
		}},
	}
}

func TestJudgeAccepts(t *testing.T) {
	want := judgedClaim{node: "a", answer: api.ClaimAnswer{Accepted: true, Node: &api.KubernetesNode{Name: "a", UID: "uid-of-x"}}}
	if diff := cmp.Diff(want, reviewed().judge(), cmp.AllowUnexported(judgedClaim{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	e := reviewed()
	e.claim.Agent = ""
	want.answer.Expires = now.Add(time.Hour).Local()
	if diff := cmp.Diff(want, e.judge(), cmp.AllowUnexported(judgedClaim{})); diff != "" {
		t.Errorf("without a TPM (-want +got):\n%s", diff)
	}
}

func TestJudgeRefuses(t *testing.T) {
	rejected := func(words string) func(*evidenceOfClaim) {
		return func(e *evidenceOfClaim) { e.review = authenticationv1.TokenReviewStatus{Error: words} }
	}
	for name, row := range map[string]struct {
		change func(*evidenceOfClaim)
		reason string
	}{
		"not a token":            {rejected("[invalid bearer token]"), RefusedToken},
		"an expired token":       {rejected("[invalid bearer token, service account token has expired]"), RefusedExpired},
		"another audience":       {rejected(`token audiences ["other"] is invalid for the target audiences ["assay"]`), RefusedAudience},
		"rejected without words": {rejected(""), RefusedToken},
		"audience not confirmed": {func(e *evidenceOfClaim) { e.review.Audiences = nil }, RefusedAudience},
		"a workload's token":     {func(e *evidenceOfClaim) { e.review.User.Username = "system:serviceaccount:shop:default" }, RefusedNotAgent},
		"same name, other space": {func(e *evidenceOfClaim) { e.review.User.Username = "system:serviceaccount:shop:assay-agent" }, RefusedNotAgent},
		"bound to no node":       {func(e *evidenceOfClaim) { e.review.User.Extra = nil }, RefusedNoNode},
		"a node that is gone":    {func(e *evidenceOfClaim) { e.node = nil }, RefusedGone},
		"a replaced node":        {func(e *evidenceOfClaim) { e.node.UID = "new" }, RefusedReplaced},
		"no TPM, no expiry":      {func(e *evidenceOfClaim) { e.claim.Agent, e.claim.Token = "", jwt(`{}`) }, RefusedToken},
		"no TPM, not a JWT":      {func(e *evidenceOfClaim) { e.claim.Agent, e.claim.Token = "", "opaque" }, RefusedToken},
	} {
		t.Run(name, func(t *testing.T) {
			e := reviewed()
			row.change(&e)
			j := e.judge()
			if j.answer.Accepted || j.reason != row.reason || !strings.HasPrefix(j.answer.Reason, row.reason+": ") {
				t.Errorf("got %+v, want a refusal for %s", j, row.reason)
			}
			if err := j.answer.Validate(); err != nil {
				t.Errorf("the server refuses the answer: %v", err)
			}
			if strings.Contains(j.answer.Reason, e.claim.Token) {
				t.Error("the token stands in the reason")
			}
		})
	}
}

// A refusal stays in the report until the very agent that was refused is bound to the node: one whose token had just ended comes back with the
// next. A stranger's stays.
func TestRefusalOfTheNodesOwnAgent(t *testing.T) {
	c := &Claimant{Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler), Changed: func([]string) {}}
	refuse := func(agent attest.AgentID) {
		c.remember(api.Claim{Agent: agent}, judgedClaim{node: "a", reason: RefusedToken, answer: api.ClaimAnswer{Reason: "ended"}})
	}
	accept := func() {
		c.remember(api.Claim{Agent: agentA}, judgedClaim{node: "a", answer: api.ClaimAnswer{Accepted: true, Node: &api.KubernetesNode{Name: "a", UID: "uid-of-a"}}})
	}
	status := func(before v1alpha1.NodeReportStatus) v1alpha1.NodeReportStatus {
		n := node("a", nil)
		n.UID = "uid-of-a"
		s := situation{now: now, node: n, report: before}
		s.claimed, s.refusal = c.of(n)
		return decide(s).status
	}
	refuse(agentA)
	refused := status(v1alpha1.NodeReportStatus{NodeUID: "uid-of-a"})
	if refused.Refusal == nil {
		t.Fatal("the report does not tell of the refusal")
	}
	accept()
	if after := status(refused); after.Refusal != nil {
		t.Errorf("the report still tells of %+v", after.Refusal)
	}
	refuse("stranger")
	accept()
	if after := status(refused); after.Refusal == nil || after.Refusal.Agent != "stranger" {
		t.Errorf("the report tells of %+v, want the stranger's", after.Refusal)
	}
}

package nodes

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// What the API server says of a token in status.user.extra.
const (
	extraNodeName = "authentication.kubernetes.io/node-name"
	extraNodeUID  = "authentication.kubernetes.io/node-uid"
)

// Reasons why a claim is refused.
const (
	RefusedToken     = "TokenRejected"
	RefusedExpired   = "TokenExpired"
	RefusedAudience  = "TokenAudience"
	RefusedNotAgent  = "NotAnAgent"
	RefusedNoNode    = "TokenWithoutNode"
	RefusedGone      = "NodeGone"
	RefusedReplaced  = "NodeReplaced"
	RefusedConflict  = "AlreadyBound"
	claimConcurrency = 8
)

// evidenceOfClaim is what a claim is judged by.
type evidenceOfClaim struct {
	now    time.Time
	claim  api.Claim
	review authenticationv1.TokenReviewStatus
	// node is the live Node that the token names; nil when there is none.
	node *corev1.Node
	// accounts are the user names of our agents' service accounts.
	accounts []string
}

// judgedClaim is an answer, and the reason of a refusal.
type judgedClaim struct {
	answer api.ClaimAnswer
	reason string
	node   string // "" when the token names none that may be believed
}

func (e evidenceOfClaim) nodeName() string { return first(e.review.User.Extra[extraNodeName]) }

// judge decides a claim. Name and UID of the node come from the API server's review alone.
func (e evidenceOfClaim) judge() judgedClaim {
	refuse := func(reason, format string, values ...any) judgedClaim {
		text := printable(fmt.Sprintf(format, values...), api.MaxClaimReasonBytes-100)
		return judgedClaim{answer: api.ClaimAnswer{Reason: reason + ": " + text}, reason: reason}
	}
	name, uid := e.nodeName(), first(e.review.User.Extra[extraNodeUID])
	switch {
	case !e.review.Authenticated:
		return refuse(rejection(e.review.Error), "the API server rejects the token: %s", orNone(e.review.Error))
	case !has(e.review.Audiences, api.NodeTokenAudience):
		return refuse(RefusedAudience, "the token is for the audiences %q, not %s", e.review.Audiences, api.NodeTokenAudience)
	case !has(e.accounts, e.review.User.Username):
		return refuse(RefusedNotAgent, "the token is of %s; agents are %s", e.review.User.Username, strings.Join(e.accounts, ", "))
	case name == "" || uid == "":
		return refuse(RefusedNoNode, "the token names no node; it has to be projected into a pod that runs on one")
	case e.node == nil:
		return refuse(RefusedGone, "there is no Node %s", name)
	case string(e.node.UID) != uid:
		j := refuse(RefusedReplaced, "the token is of Node %s with UID %s, which has been replaced by %s", name, uid, e.node.UID)
		j.node = name
		return j
	}
	j := judgedClaim{node: name, answer: api.ClaimAnswer{Accepted: true, Node: &api.KubernetesNode{Name: name, UID: uid}}}
	if e.claim.Agent == "" {
		expires, err := expiry(e.claim.Token)
		if err != nil {
			return refuse(RefusedToken, "%v", err)
		}
		j.answer.Expires = expires
	}
	return j
}

// rejection sorts the API server's words; they are for people, and nothing but the reason shown depends on them.
func rejection(words string) string {
	switch {
	case strings.Contains(words, "expired"):
		return RefusedExpired
	case strings.Contains(words, "audience"):
		return RefusedAudience
	}
	return RefusedToken
}

// expiry reads the end of validity of a token that the API server accepted.
func expiry(token string) (time.Time, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, errors.New("the token is not a JWT")
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, errors.New("the token's claims are not base64url")
	}
	var claims struct {
		Expires int64 `json:"exp"`
	}
	if err := json.Unmarshal(body, &claims); err != nil || claims.Expires <= 0 {
		return time.Time{}, errors.New("the token says no end of its validity")
	}
	return time.Unix(claims.Expires, 0), nil
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// Claimant answers the agents' claims and remembers the answers for the reports.
type Claimant struct {
	// Client creates TokenReviews; Reader reads Nodes past the cache, so that a Node that has just been replaced is not mistaken.
	Client client.Client
	Reader client.Reader
	// Connect gives the server.
	Connect func() (Server, error)
	View    *View
	// Accounts are the user names of the agents' service accounts.
	Accounts []string
	Interval time.Duration
	Now      func() time.Time
	Log      *slog.Logger
	// Changed is told which Nodes to look at again.
	Changed func(names []string)

	mu      sync.Mutex
	claimed map[string]claimedNode
	refusal map[string]*v1alpha1.Refusal
}

type claimedNode struct {
	uid   string
	agent attest.AgentID
}

// Start answers until ctx ends.
func (c *Claimant) Start(ctx context.Context) error {
	for {
		if err := c.Answer(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, ErrNotConnected) {
			c.Log.Warn("answer claims", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.Interval):
		}
	}
}

// Answer answers the claims that wait now, several at once.
func (c *Claimant) Answer(ctx context.Context) error {
	server, err := c.Connect()
	if err != nil {
		return err
	}
	waiting, err := server.Claims(ctx)
	if err != nil {
		return fmt.Errorf("list claims: %w", err)
	}
	var mu sync.Mutex
	var mistakes []error
	var working sync.WaitGroup
	turn := make(chan struct{}, claimConcurrency)
	for _, claim := range waiting {
		turn <- struct{}{}
		working.Go(func() {
			defer func() { <-turn }()
			if err := c.answer(ctx, server, claim); err != nil {
				mu.Lock()
				mistakes = append(mistakes, fmt.Errorf("claim of agent %q: %w", claim.Agent, err))
				mu.Unlock()
			}
		})
	}
	working.Wait()
	return errors.Join(mistakes...)
}

func (c *Claimant) answer(ctx context.Context, server Server, claim api.Claim) error {
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: claim.Token, Audiences: []string{api.NodeTokenAudience}}}
	if err := c.Client.Create(ctx, review); err != nil {
		return fmt.Errorf("review its token: %w", err)
	}
	evidence := evidenceOfClaim{now: c.Now(), claim: claim, review: review.Status, accounts: c.Accounts}
	if name := evidence.nodeName(); name != "" && review.Status.Authenticated {
		node := &corev1.Node{}
		switch err := c.Reader.Get(ctx, client.ObjectKey{Name: name}, node); {
		case err == nil:
			evidence.node = node
		case !apierrors.IsNotFound(err):
			return fmt.Errorf("read Node %s: %w", name, err)
		}
	}
	judged := evidence.judge()
	err := server.AnswerClaim(ctx, claim.ID, judged.answer)
	switch {
	case status(err) == http.StatusNotFound:
		return nil // superseded or expired meanwhile
	case status(err) == http.StatusConflict:
		judged.reason, judged.answer = RefusedConflict, api.ClaimAnswer{Reason: err.Error()}
	case err != nil:
		return fmt.Errorf("answer: %w", err)
	}
	c.remember(claim, judged)
	return nil
}

// remember keeps an answer for the report of the Node that it concerns: the one that the token names, or, when the token names none that may be
// believed, the one that the agent is bound to.
func (c *Claimant) remember(claim api.Claim, j judgedClaim) {
	name := j.node
	if name == "" {
		name, _ = c.View.nodeOf(claim.Agent)
	}
	c.Log.Info("claim answered", "agent", claim.Agent, "node", name, "accepted", j.reason == "", "reason", j.answer.Reason)
	if name == "" {
		return
	}
	c.mu.Lock()
	if c.claimed == nil {
		c.claimed, c.refusal = map[string]claimedNode{}, map[string]*v1alpha1.Refusal{}
	}
	if j.reason == "" {
		c.claimed[name] = claimedNode{uid: j.answer.Node.UID, agent: claim.Agent}
		if old := c.refusal[name]; old != nil && old.Agent == string(claim.Agent) {
			delete(c.refusal, name) // an agent whose token had just ended came back with the next one
		}
	} else if old := c.refusal[name]; old == nil || old.Reason != j.reason || old.Agent != string(claim.Agent) {
		c.refusal[name] = &v1alpha1.Refusal{
			Agent: string(claim.Agent), Reason: j.reason, Message: printable(j.answer.Reason, maxMessageBytes), At: metav1.NewTime(c.Now().Truncate(time.Second)),
		}
	}
	c.mu.Unlock()
	c.Changed([]string{name})
}

// of returns the agent whose claim to this very Node was accepted since the operator started, and the last refused claim to it.
func (c *Claimant) of(node *corev1.Node) (attest.AgentID, *v1alpha1.Refusal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if held, ok := c.claimed[node.Name]; ok && held.uid == string(node.UID) {
		return held.agent, c.refusal[node.Name]
	}
	return "", c.refusal[node.Name]
}

// forget drops what is remembered of a Node that is gone.
func (c *Claimant) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.claimed, name)
	delete(c.refusal, name)
}

package nodes

import (
	"context"
	"errors"
	"net/http"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/client"
)

// Machines are the server's nodes.
type Machines interface {
	Nodes(ctx context.Context) ([]api.Node, error)
	Node(ctx context.Context, id attest.AgentID) (api.Node, error)
	Enrol(ctx context.Context, r api.EnrolRequest) (api.Node, error)
	UpdateNode(ctx context.Context, id attest.AgentID, u api.NodeUpdate) (api.Node, error)
	Watch(ctx context.Context, ready func(), each func(api.Transition) error) error
}

// Cordons tells the server which Kubernetes nodes are cordoned; it decides what that mutes.
type Cordons interface {
	Cordon(ctx context.Context, id attest.AgentID, c api.Cordon) (api.Node, error)
}

// Claims are the agents' claims to nodes, and what the server knows of their TPMs.
type Claims interface {
	Claims(ctx context.Context) ([]api.Claim, error)
	AnswerClaim(ctx context.Context, id string, answer api.ClaimAnswer) error
	CheckEndorsement(ctx context.Context, id attest.AgentID) (api.EndorsementCheck, error)
}

// Reactions are the server's decisions to react.
type Reactions interface {
	Reactions(ctx context.Context, state string) ([]api.Reaction, error)
	ClaimReaction(ctx context.Context, id uint64) (api.Reaction, error)
	ReportReaction(ctx context.Context, id uint64, r api.ReactionReport) (api.Reaction, error)
	Suspension(ctx context.Context) (api.Suspension, error)
	Suspend(ctx context.Context, s api.Suspension) (api.Suspension, error)
}

// Server is the native API as the operator uses it. *client.Client is one.
type Server interface {
	Machines
	Cordons
	Claims
	Reactions
	Policies(ctx context.Context) ([]api.Policy, error)
}

// ErrNotConnected says that there is no server to speak to yet; the platform's conditions say why.
var ErrNotConnected = errors.New("the server is not connected yet")

// status returns the HTTP status of a refusal, or 0.
func status(err error) int {
	var p *client.ProblemError
	if errors.As(err, &p) {
		return p.Status
	}
	return 0
}

// refused reports whether the server understood and said no, so that trying again at once is of no use.
func refused(err error) bool {
	s := status(err)
	return s >= 400 && s < 500 && s != http.StatusTooManyRequests
}

var _ Server = (*client.Client)(nil)

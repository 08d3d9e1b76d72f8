package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/assay-project/assay/api"
)

// Reactions lists reactions in the order of their ids: those in a state, api.ReactionStateOpen for all that have not ended, "" for all.
func (c *Client) Reactions(ctx context.Context, state string) ([]api.Reaction, error) {
	query := url.Values{}
	if state != "" {
		query.Set("state", state)
	}
	return selected[api.Reaction](ctx, c, api.PathReactions, query)
}

// ClaimReaction takes a due or lifting reaction for the operator that asks; a status of 409 says why it cannot be had.
func (c *Client) ClaimReaction(ctx context.Context, id uint64) (api.Reaction, error) {
	return post[api.Reaction](ctx, c, reactionPath(id, "claim"), nil)
}

// ReportReaction tells what became of a claimed reaction.
func (c *Client) ReportReaction(ctx context.Context, id uint64, r api.ReactionReport) (api.Reaction, error) {
	return post[api.Reaction](ctx, c, reactionPath(id, "report"), r)
}

// Suspension tells whether all reactions are suspended.
func (c *Client) Suspension(ctx context.Context) (api.Suspension, error) {
	return get[api.Suspension](ctx, c, api.PathSuspension)
}

// Suspend suspends all reactions, for a reason, or resumes them.
func (c *Client) Suspend(ctx context.Context, s api.Suspension) (api.Suspension, error) {
	var now api.Suspension
	err := c.do(ctx, call{method: http.MethodPut, path: api.PathSuspension, body: s}, &now)
	return now, err
}

func reactionPath(id uint64, act string) string {
	return api.PathReactions + "/" + strconv.FormatUint(id, 10) + "/" + act
}

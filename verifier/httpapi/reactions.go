package httpapi

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/httpjson"
	"github.com/assay-project/assay/reaction"
	"github.com/assay-project/assay/verifier"
)

// reactionRoutes are the operations on reactions. Only an operator acts on a cluster; people look, and can stop it.
func reactionRoutes() []route {
	return []route{
		{"GET", api.PathReactions, readers, (*API).listReactions},
		{"POST", api.PathReactions + "/{id}/claim", operators, (*API).claimReaction},
		{"POST", api.PathReactions + "/{id}/report", operators, (*API).reportReaction},
		{"GET", api.PathSuspension, readers, (*API).showSuspension},
		{"PUT", api.PathSuspension, acting, (*API).suspend},
	}
}

func (a *API) listReactions(w http.ResponseWriter, r *http.Request, _ caller) error {
	cursor, limit, err := page(r)
	if err != nil {
		return err
	}
	q := reaction.Query{Limit: limit}
	if cursor != "" {
		if q.After, err = strconv.ParseUint(cursor, 10, 64); err != nil {
			return fmt.Errorf("%w: cursor %.40q is no number of a reaction", verifier.ErrInvalid, cursor)
		}
	}
	if q.States, err = states(r.URL.Query().Get("state")); err != nil {
		return err
	}
	rows, err := a.cfg.Verifier.Reactions(r.Context(), q)
	if err != nil {
		return err
	}
	answer := pageOf(rows, func(row reaction.Row) api.Reaction { return row.Reaction })
	if len(rows) == limit {
		answer.Next = strconv.FormatUint(rows[limit-1].ID, 10)
	}
	httpjson.Write(w, http.StatusOK, answer)
	return nil
}

// states reads the query "state"; nil is all.
func states(text string) ([]api.ReactionState, error) {
	switch state := api.ReactionState(text); {
	case text == "":
		return nil, nil
	case text == api.ReactionStateOpen:
		return reaction.Open(), nil
	case slices.Contains(api.ReactionStates(), state):
		return []api.ReactionState{state}, nil
	}
	return nil, fmt.Errorf("%w: state %.40q is neither %s nor one of %v", verifier.ErrInvalid, text, api.ReactionStateOpen, api.ReactionStates())
}

// reactionID is the row that a path names; what is no number names none.
func reactionID(r *http.Request) (uint64, error) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reaction %.40q: %w", r.PathValue("id"), reaction.ErrNotFound)
	}
	return id, nil
}

func (a *API) claimReaction(w http.ResponseWriter, r *http.Request, c caller) error {
	id, err := reactionID(r)
	if err != nil {
		return err
	}
	row, err := a.cfg.Verifier.ClaimReaction(r.Context(), id, c.name)
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusOK, row.Reaction)
	return nil
}

func (a *API) reportReaction(w http.ResponseWriter, r *http.Request, c caller) error {
	id, err := reactionID(r)
	if err != nil {
		return err
	}
	var report api.ReactionReport
	if err := decode(r, maxBodyBytes, &report); err != nil {
		return err
	}
	if err := report.Validate(); err != nil {
		return fmt.Errorf("%w: %w", verifier.ErrInvalid, err)
	}
	row, err := a.cfg.Verifier.ReportReaction(r.Context(), reaction.By{ID: id, Name: c.name}, report)
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusOK, row.Reaction)
	return nil
}

func (a *API) showSuspension(w http.ResponseWriter, r *http.Request, _ caller) error {
	s, err := a.cfg.Verifier.Suspension(r.Context())
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusOK, s)
	return nil
}

func (a *API) suspend(w http.ResponseWriter, r *http.Request, c caller) error {
	var s api.Suspension
	if err := decode(r, maxBodyBytes, &s); err != nil {
		return err
	}
	if err := s.Validate(); err != nil {
		return fmt.Errorf("%w: %w", verifier.ErrInvalid, err)
	}
	s.By = c.name
	if err := a.cfg.Verifier.Suspend(r.Context(), s); err != nil {
		return err
	}
	return a.showSuspension(w, r, c)
}

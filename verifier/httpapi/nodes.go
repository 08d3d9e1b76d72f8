package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/internal/httpjson"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/identity"
	"github.com/assay-project/assay/verifier/machine"
)

func (a *API) view(n verifier.Node) api.Node {
	s := n.State
	pending := uint64(0)
	if s.IMA.Held != nil {
		pending = s.IMA.Held.Count
	}
	return api.Node{
		ID: n.ID, Verdict: a.cfg.Verifier.Read(n), Since: s.Since, Failures: list(s.Failures), QuoteBacked: s.QuoteBacked,
		Assigned: list(n.Policies), Appraised: list(s.Policies), Boot: s.Boot, BootSince: s.BootSince,
		Position: s.IMA.Position, Pending: pending, Accepted: s.Accepted, Refused: s.Refused,
		LastAccepted: s.LastAccepted, LastTried: s.LastTried, Trouble: s.Trouble,
		Interval: a.cfg.Verifier.Interval(n).Seconds(), Paused: s.Paused,
		Registration: a.cfg.Verifier.Waiting(n.ID),
		Assignment:   n.Assignment, Coverage: n.Coverage(), Readmission: s.Readmission, Emulated: n.Enrolment.Emulated,
		IMAPolicy: s.Progress.IMAPolicy, Cordoned: s.Cordoned, Muted: a.cfg.Verifier.Mute(n),
		EndorsedBy: n.Enrolment.EndorsedBy, FirstUse: n.Enrolment.FirstUse, Endorsement: endorsementLabel(n.Enrolment), Enrolled: n.Enrolment.At,
		TpmPresent: true, Address: n.Enrolment.Address, Port: n.Enrolment.Port, KeylimeState: a.cfg.Verifier.KeylimeState(n), Heartbeat: a.reports.Of(n.ID),
	}
}

// endorsementLabel says what kind of word vouches for an enrolled EK. Only a listed one has no vendor and was no first use.
func endorsementLabel(e verifier.Enrolment) string {
	switch {
	case e.FirstUse:
		return string(endorsement.FirstUse)
	case e.EndorsedBy == "":
		return string(endorsement.Listed)
	}
	return string(endorsement.Vendor)
}

// bound is view with the node's binding.
func (a *API) bound(ctx context.Context, n verifier.Node) (api.Node, error) {
	view := a.view(n)
	b, err := a.cfg.Bindings.BindingOf(ctx, n.ID)
	switch {
	case err == nil:
		view.KubernetesNode = &b.Node
	case !errors.Is(err, verifier.ErrNotFound):
		return view, fmt.Errorf("node %s: %w", n.ID, err)
	}
	return view, nil
}

// unproven is the view of an agent without a TPM (C3): whatever it says, nothing of it is appraised.
func (a *API) unproven(p identity.Presence) api.Node {
	state := machine.State{Verdict: attest.Unappraised, Shown: attest.Unappraised, Since: p.Since}
	return api.Node{
		ID: p.ID, Verdict: attest.Unappraised, Since: p.Since, Reason: api.ReasonNoTpm, KubernetesNode: p.Node,
		Failures: []attest.Failure{}, Assigned: []attest.PolicyRef{}, Appraised: []attest.PolicyRef{},
		KeylimeState: state.KeylimeState(a.cfg.Now(), a.cfg.Verifier.Interval(verifier.Node{})), Heartbeat: &p.Report,
	}
}

// list makes an empty list of nil, so that JSON never shows null for a list.
func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

func (a *API) listNodes(w http.ResponseWriter, r *http.Request, _ caller) error {
	after, limit, err := page(r)
	if err != nil {
		return err
	}
	if after != "" {
		if _, err := attest.ParseAgentID(after); err != nil {
			return fmt.Errorf("%w: cursor: %w", verifier.ErrInvalid, err)
		}
	}
	nodes, err := a.cfg.Verifier.List(r.Context(), attest.AgentID(after), limit)
	if err != nil {
		return err
	}
	answer := api.Page[api.Node]{Items: []api.Node{}}
	for _, n := range nodes {
		view, err := a.bound(r.Context(), n)
		if err != nil {
			return err
		}
		answer.Items = append(answer.Items, view)
	}
	answer.Items = a.withUnproven(answer.Items, attest.AgentID(after), limit)
	if len(answer.Items) == limit {
		answer.Next = string(answer.Items[limit-1].ID)
	}
	httpjson.Write(w, http.StatusOK, answer)
	return nil
}

// withUnproven merges the agents without a TPM into a page of enrolled nodes. An enrolled one hides an unproven one of its name.
func (a *API) withUnproven(page []api.Node, after attest.AgentID, limit int) []api.Node {
	for _, p := range a.presences.After(after) {
		if enrolled, err := a.enrolled(p.ID); !enrolled && err == nil {
			page = append(page, a.unproven(p))
		}
	}
	slices.SortFunc(page, func(x, y api.Node) int { return cmp.Compare(x.ID, y.ID) })
	return page[:min(len(page), limit)]
}

// enrolled reports whether a node is enrolled. While the verifier starts or ends that is not known, which is an error and never a no: a no frees the
// node's name and its Kubernetes node for others.
func (a *API) enrolled(id attest.AgentID) (bool, error) {
	_, err := a.cfg.Verifier.Show(id)
	if errors.Is(err, verifier.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// node is the node that a path names, as its goroutine last published it.
func (a *API) node(r *http.Request) (verifier.Node, error) {
	id, err := pathID(r)
	if err != nil {
		return verifier.Node{}, err
	}
	return a.cfg.Verifier.Show(id)
}

func (a *API) showNode(w http.ResponseWriter, r *http.Request, _ caller) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	n, err := a.cfg.Verifier.Show(id)
	if errors.Is(err, verifier.ErrNotFound) {
		if p, ok := a.presences.Of(id); ok {
			httpjson.Write(w, http.StatusOK, a.unproven(p))
			return nil
		}
	}
	if err != nil {
		return err
	}
	view, err := a.bound(r.Context(), n)
	if err != nil {
		return err
	}
	if view.Registration, err = a.registration(r.Context(), id); err != nil {
		return err
	}
	httpjson.Write(w, http.StatusOK, view)
	return nil
}

// registration is why a registration of an enrolled agent waits for a person: at the registrar, or here.
func (a *API) registration(ctx context.Context, id attest.AgentID) (reason string, err error) {
	if a.cfg.Pending == nil {
		return a.cfg.Verifier.Waiting(id), nil
	}
	pending, err := a.cfg.Pending.Pending(ctx)
	if err != nil {
		return "", err
	}
	for _, p := range pending {
		if p.Agent == id {
			return p.Reason, nil
		}
	}
	return a.cfg.Verifier.Waiting(id), nil
}

func (a *API) enrol(w http.ResponseWriter, r *http.Request, c caller) error {
	var request api.EnrolRequest
	if err := decode(r, maxBodyBytes, &request); err != nil {
		return err
	}
	id, err := attest.ParseAgentID(string(request.ID))
	if err != nil {
		return fmt.Errorf("%w: %w", verifier.ErrInvalid, err)
	}
	interval, err := seconds(request.Interval)
	if err != nil {
		return err
	}
	if request.Port < 0 || request.Port > 65535 {
		return fmt.Errorf("%w: port %d", verifier.ErrInvalid, request.Port)
	}
	if request.FirstUse && !a.cfg.AllowFirstUse {
		return fmt.Errorf("%w: the server's configuration does not allow first use (endorsement: AllowFirstUse)", errForbidden)
	}
	registered, err := a.cfg.Registrar.Agent(r.Context(), id)
	if err != nil {
		return fmt.Errorf("agent %s: %w", id, err)
	}
	assignment, err := assignable(request.Assignment, c)
	if err != nil {
		return err
	}
	accepted, err := verifier.LoadEndorsement(r.Context(), a.cfg.Roots, a.cfg.Keys)
	if err != nil {
		return err
	}
	node, err := a.cfg.Verifier.Enrol(r.Context(), verifier.Enrol{
		Registered: registered, FixedAddress: request.Address, FixedPort: request.Port, Policies: request.Policies, Interval: interval, FirstUse: request.FirstUse, Roots: accepted.Roots,
		EmulatedRoots: accepted.Emulated, Assignment: assignment,
	})
	if err != nil {
		return err
	}
	a.cfg.Log.Info("enrolled", "node", id, "by", c.name, "firstUse", node.Enrolment.FirstUse)
	view, err := a.bound(r.Context(), node)
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusCreated, view)
	return nil
}

func (a *API) updateNode(w http.ResponseWriter, r *http.Request, c caller) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	var request api.NodeUpdate
	if err := decode(r, maxBodyBytes, &request); err != nil {
		return err
	}
	update := verifier.Update{Policies: request.Policies, ByOwner: c.role == mtls.Operator}
	if request.Assignment != nil {
		assignment, err := assignable(request.Assignment, c)
		if err != nil {
			return err
		}
		update.Assignment = &assignment
	}
	if request.Interval != nil {
		interval, err := seconds(*request.Interval)
		if err != nil {
			return err
		}
		update.Interval = &interval
	}
	if err := a.cfg.Verifier.Update(r.Context(), id, update); err != nil {
		return err
	}
	a.cfg.Log.Info("updated", "node", id, "by", c.name)
	return a.showNode(w, r, c)
}

func (a *API) removeNode(w http.ResponseWriter, r *http.Request, c caller) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	err = a.cfg.Verifier.Remove(r.Context(), id)
	if err != nil && !errors.Is(err, verifier.ErrNotFound) {
		return err // nothing was changed
	}
	if gone := a.presences.Forget(id); err != nil && !gone {
		return err
	}
	a.reports.Forget(id)
	if err := a.cfg.Bindings.Unbind(r.Context(), id); err != nil {
		return fmt.Errorf("free the Kubernetes node of %s: %w", id, err)
	}
	a.cfg.Log.Info("removed", "node", id, "by", c.name)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) act(w http.ResponseWriter, r *http.Request, c caller) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	act := machine.Act(r.PathValue("act"))
	switch act {
	case machine.Pause, machine.Resume, machine.Reattest, machine.Approve:
	default:
		return fmt.Errorf("%w: act %.40q; want pause, resume, reattest or approve", verifier.ErrNotFound, act)
	}
	if err := a.cfg.Verifier.Do(r.Context(), id, act); err != nil {
		return err
	}
	a.cfg.Log.Info("act", "act", act, "node", id, "by", c.name)
	return a.showNode(w, r, c)
}

func transitionView(t machine.Transition) api.Transition {
	return api.Transition{
		Node: t.Node, Seq: t.Seq, At: t.At, From: t.From, To: t.To, Boot: t.Boot, Cause: t.Cause, Detail: t.Detail,
		Policies: list(t.Policies), Failures: list(t.Failures), Quote: t.Quote,
	}
}

func (a *API) results(w http.ResponseWriter, r *http.Request, _ caller) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	cursor, limit, err := page(r)
	if err != nil {
		return err
	}
	after := uint64(0)
	if cursor != "" {
		if after, err = strconv.ParseUint(cursor, 10, 64); err != nil {
			return fmt.Errorf("%w: cursor %.40q", verifier.ErrInvalid, cursor)
		}
	}
	if _, err := a.cfg.Verifier.Show(id); err != nil {
		return err
	}
	rows, err := a.cfg.Evidence.Transitions(r.Context(), id, after, limit)
	if err != nil {
		return err
	}
	answer := pageOf(rows, transitionView)
	if len(rows) == limit {
		answer.Next = strconv.FormatUint(rows[limit-1].Seq, 10)
	}
	httpjson.Write(w, http.StatusOK, answer)
	return nil
}

func (a *API) failures(w http.ResponseWriter, r *http.Request, _ caller) error {
	n, err := a.node(r)
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusOK, api.Page[attest.Failure]{Items: list(n.State.Failures)})
	return nil
}

// assignable checks an assignment, nil being the zero one. Owners are the operator's: a node that a person gave one would be locked for people.
func assignable(a *api.Assignment, c caller) (api.Assignment, error) {
	if a == nil {
		return api.Assignment{}, nil
	}
	if err := a.Validate(); err != nil {
		return api.Assignment{}, fmt.Errorf("%w: %w", verifier.ErrInvalid, err)
	}
	if a.Owner != "" && c.role != mtls.Operator {
		return api.Assignment{}, fmt.Errorf("%w: assignment.owner: %s is %s, and only role %s assigns for an object", errForbidden, c.name, c.role, mtls.Operator)
	}
	return *a, nil
}

// cordon takes the operator's word on whether the Kubernetes node is cordoned. A time to come begins nothing later: it counts as none.
func (a *API) cordon(w http.ResponseWriter, r *http.Request, c caller) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	var said api.Cordon
	if err := decode(r, maxBodyBytes, &said); err != nil {
		return err
	}
	if !said.Cordoned && !said.Since.IsZero() {
		return fmt.Errorf("%w: since %s belongs to a node that is cordoned", verifier.ErrInvalid, said.Since.Format(time.RFC3339))
	}
	if err := a.cfg.Verifier.Cordon(r.Context(), id, said); err != nil {
		return err
	}
	a.cfg.Log.Info("cordon", "node", id, "cordoned", said.Cordoned, "by", c.name)
	return a.showNode(w, r, c)
}

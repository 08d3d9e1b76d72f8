package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"unicode/utf8"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/httpjson"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/machine"
)

func (a *API) evidence(w http.ResponseWriter, r *http.Request, _ caller) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	n, err := a.cfg.Verifier.Show(id)
	if err != nil {
		return err
	}
	var digest attest.Digest
	if text := r.URL.Query().Get("quote"); text != "" {
		if digest, err = attest.ParseDigest(text); err != nil {
			return fmt.Errorf("%w: %w", verifier.ErrInvalid, err)
		}
	}
	answer, err := a.evidenceOf(r.Context(), n, digest)
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusOK, answer)
	return nil
}

// evidenceOf collects what is stored around a quote; the zero digest names the last accepted one.
func (a *API) evidenceOf(ctx context.Context, n verifier.Node, digest attest.Digest) (api.Evidence, error) {
	q, err := a.cfg.Evidence.Quote(ctx, n.ID, digest)
	if errors.Is(err, verifier.ErrExpired) {
		return api.Evidence{}, fmt.Errorf("quote %s of %s: %w: the evidence of its boot was deleted some time after the boot ended (evidence.retention)", digest, n.ID, err)
	}
	if err != nil {
		return api.Evidence{}, fmt.Errorf("quote of %s: %w", n.ID, err)
	}
	answer := api.Evidence{
		Node: n.ID, Boot: q.Boot, At: q.At, Nonce: q.Nonce, Quote: q.Packed, Digest: q.Digest, EK: n.Enrolment.EK, Chain: a.chain(ctx, n),
		Position: q.Position, RefusedIMAPolicies: a.cfg.Verifier.RefusedIMAPolicies(n),
	}
	if answer.AK, err = n.Enrolment.Signer(q); err != nil {
		return api.Evidence{}, fmt.Errorf("quote %s of %s: %w", q.Digest, n.ID, err)
	}
	if answer.Policies, err = a.policiesOf(ctx, n, q, digest); err != nil {
		return api.Evidence{}, err
	}
	chunk, err := a.cfg.Evidence.List(ctx, n.ID, q.Boot)
	if err != nil && !errors.Is(err, verifier.ErrNotFound) {
		return api.Evidence{}, err
	}
	answer.List = string(chunk.ASCII)
	if !utf8.Valid(chunk.ASCII) {
		answer.ListBytes = chunk.ASCII
	}
	if answer.BootLog, err = a.cfg.Evidence.BootLog(ctx, n.ID, q.Boot); err != nil && !errors.Is(err, verifier.ErrNotFound) {
		return api.Evidence{}, err
	}
	return answer, nil
}

// chain is what the registrar has of the EK's certificates; without it the rest of the evidence is worth as much.
func (a *API) chain(ctx context.Context, n verifier.Node) [][]byte {
	r, err := a.cfg.Registrar.Agent(ctx, n.ID)
	if err != nil {
		if !errors.Is(err, verifier.ErrNotFound) {
			a.cfg.Log.Warn("ask for the EK's certificates", "node", n.ID, "err", err)
		}
		return nil
	}
	if !bytes.Equal(r.EK, n.Enrolment.EK) {
		return nil
	}
	return r.Chain
}

// policiesOf are the documents of the verdict that rests on a quote: the current one, or that of the last transition which names the quote.
func (a *API) policiesOf(ctx context.Context, n verifier.Node, q machine.StoredQuote, asked attest.Digest) ([]attest.PolicyRef, error) {
	if asked.IsZero() {
		return list(n.State.Policies), nil
	}
	found := false
	var refs []attest.PolicyRef
	for after := uint64(0); ; {
		rows, err := a.cfg.Evidence.Transitions(ctx, n.ID, after, api.MaxPage)
		if err != nil {
			return nil, err
		}
		for _, t := range rows {
			after = t.Seq
			if t.Quote == q.Digest {
				found, refs = true, t.Policies
			}
		}
		if len(rows) < api.MaxPage {
			break
		}
	}
	if !found { // the last accepted quote by its name
		refs = n.State.Policies
	}
	return list(refs), nil
}

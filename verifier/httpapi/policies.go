package httpapi

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/httpjson"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/verifier"
)

func policyView(p verifier.StoredPolicy) api.Policy {
	return api.Policy{Kind: p.Ref.Kind, Name: p.Ref.Name, Digest: p.Ref.Digest, Size: p.Size, Added: p.Added}
}

func (a *API) listPolicies(w http.ResponseWriter, r *http.Request, _ caller) error {
	cursor, limit, err := page(r)
	if err != nil {
		return err
	}
	var after attest.Digest
	if err := after.UnmarshalText([]byte(cursor)); err != nil {
		return fmt.Errorf("%w: cursor: %w", verifier.ErrInvalid, err)
	}
	stored, err := a.cfg.Policies.Policies(r.Context(), after, limit)
	if errors.Is(err, verifier.ErrNotFound) {
		return fmt.Errorf("%w: cursor %s: no such policy", verifier.ErrInvalid, after)
	}
	if err != nil {
		return err
	}
	answer := pageOf(stored, policyView)
	if len(stored) == limit {
		answer.Next = stored[limit-1].Ref.Digest.String()
	}
	httpjson.Write(w, http.StatusOK, answer)
	return nil
}

// addPolicy stores a document; it changes no verdict (C7). The query "keylime=NAME" imports Keylime's JSON under that name.
func (a *API) addPolicy(w http.ResponseWriter, r *http.Request, c caller) error {
	text, err := body(w, r, maxPolicyBytes)
	if err != nil {
		return err
	}
	doc, err := parsePolicy(text, r.URL.Query().Get("keylime"))
	if err != nil {
		return fmt.Errorf("%w: %w", verifier.ErrInvalid, err)
	}
	p := verifier.StoredPolicy{Ref: doc.Ref(), Bytes: doc.Bytes(), Size: int64(len(doc.Bytes())), Added: a.cfg.Now()}
	if err := a.cfg.Policies.AddPolicy(r.Context(), p); err != nil {
		return err
	}
	a.cfg.Log.Info("policy added", "policy", p.Ref.Name, "digest", p.Ref.Digest, "by", c.name)
	answer := policyView(p)
	answer.Warnings = doc.Warnings()
	httpjson.Write(w, http.StatusCreated, answer)
	return nil
}

func parsePolicy(text []byte, keylime string) (*policy.Document, error) {
	if keylime != "" {
		return policy.ImportKeylime(text, keylime)
	}
	return policy.Parse(text)
}

func (a *API) showPolicy(w http.ResponseWriter, r *http.Request, _ caller) error {
	p, err := a.cfg.Policies.Policy(r.Context(), r.PathValue("name"))
	if err != nil {
		return fmt.Errorf("policy %.80q: %w", r.PathValue("name"), err)
	}
	w.Header().Set("Content-Type", "application/yaml")
	w.Header().Set("Assay-Policy-Digest", p.Ref.Digest.String())
	_, err = w.Write(p.Bytes)
	return err
}

func (a *API) removePolicy(w http.ResponseWriter, r *http.Request, c caller) error {
	p, err := a.cfg.Policies.Policy(r.Context(), r.PathValue("digest"))
	if err != nil {
		return fmt.Errorf("policy %.80q: %w", r.PathValue("digest"), err)
	}
	if err := a.cfg.Policies.RemovePolicy(r.Context(), p.Ref.Digest); err != nil {
		return fmt.Errorf("policy %s: %w", p.Ref.Name, err)
	}
	a.cfg.Log.Info("policy removed", "policy", p.Ref.Name, "digest", p.Ref.Digest, "by", c.name)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

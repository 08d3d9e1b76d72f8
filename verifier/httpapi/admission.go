package httpapi

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/httpjson"
	"github.com/assay-project/assay/verifier"
)

func tokenView(t verifier.Token) api.Token {
	return api.Token{ID: t.ID, Created: t.Created, Expires: t.Expires, Agent: t.Agent}
}

func (a *API) listTokens(w http.ResponseWriter, r *http.Request, _ caller) error {
	tokens, err := a.cfg.Tokens.Tokens(r.Context())
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusOK, pageOf(tokens, tokenView))
	return nil
}

// defaultTokenLifetime is how long a join token may wait for its use.
const defaultTokenLifetime = 24 * time.Hour

func (a *API) createToken(w http.ResponseWriter, r *http.Request, c caller) error {
	var request api.TokenRequest
	if err := decode(r, maxBodyBytes, &request); err != nil {
		return err
	}
	lifetime, err := seconds(request.Lifetime)
	if err != nil {
		return err
	}
	if lifetime == 0 {
		lifetime = defaultTokenLifetime
	}
	id, secret := make([]byte, 5), make([]byte, 24)
	for _, b := range [][]byte{id, secret} {
		if _, err := io.ReadFull(rand.Reader, b); err != nil {
			return fmt.Errorf("draw token: %w", err)
		}
	}
	sum := sha256.Sum256(secret)
	digest, err := attest.NewDigest(attest.SHA256, sum[:])
	if err != nil {
		return err
	}
	now := a.cfg.Now()
	t := verifier.Token{ID: hex.EncodeToString(id), Created: now, Expires: now.Add(lifetime), SecretDigest: digest}
	if err := a.cfg.Tokens.AddToken(r.Context(), t); err != nil {
		return err
	}
	a.cfg.Log.Info("join token created", "token", t.ID, "expires", t.Expires, "by", c.name)
	text := api.JoinToken{Pin: a.cfg.Pin(), ID: t.ID, Secret: secret}.String()
	httpjson.Write(w, http.StatusCreated, api.TokenCreated{Token: tokenView(t), Text: text})
	return nil
}

func (a *API) revokeToken(w http.ResponseWriter, r *http.Request, c caller) error {
	if err := a.cfg.Tokens.RevokeToken(r.Context(), r.PathValue("id")); err != nil {
		return fmt.Errorf("token %.40q: %w", r.PathValue("id"), err)
	}
	a.cfg.Log.Info("join token revoked", "token", r.PathValue("id"), "by", c.name)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) issueCertificate(w http.ResponseWriter, r *http.Request, c caller) error {
	var request api.CertificateRequest
	if err := decode(r, maxBodyBytes, &request); err != nil {
		return err
	}
	certificate, err := a.cfg.Issue(r.Context(), request)
	if err != nil {
		return fmt.Errorf("%w: issue certificate: %w", verifier.ErrInvalid, err)
	}
	a.cfg.Log.Info("certificate issued", "role", request.Role, "name", request.Name, "by", c.name)
	httpjson.Write(w, http.StatusCreated, certificate)
	return nil
}

func (a *API) listRegistered(w http.ResponseWriter, r *http.Request, _ caller) error {
	ids, err := a.cfg.Registrar.Agents(r.Context())
	if err != nil {
		return err
	}
	answer := api.Page[api.Registered]{Items: []api.Registered{}}
	for _, id := range ids {
		enrolled, err := a.enrolled(id)
		if err != nil {
			return err
		}
		answer.Items = append(answer.Items, api.Registered{Agent: id, Enrolled: enrolled})
	}
	httpjson.Write(w, http.StatusOK, answer)
	return nil
}

func (a *API) listPending(w http.ResponseWriter, r *http.Request, _ caller) error {
	answer := api.Page[api.Pending]{Items: []api.Pending{}}
	if a.cfg.Pending != nil {
		pending, err := a.cfg.Pending.Pending(r.Context())
		if err != nil {
			return err
		}
		answer.Items = append(answer.Items, pending...)
	}
	httpjson.Write(w, http.StatusOK, answer)
	return nil
}

func (a *API) approve(w http.ResponseWriter, r *http.Request, c caller) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if err := a.letIn(r.Context(), id); err != nil {
		return err
	}
	a.cfg.Log.Info("registration approved", "agent", id, "by", c.name)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// letIn approves at the registrar and has an enrolled node take the new AK over: one act of a person for both. It can be repeated: what
// the registrar has let in already is taken over all the same.
func (a *API) letIn(ctx context.Context, id attest.AgentID) error {
	waited := fmt.Errorf("pending registration %s: %w", id, verifier.ErrNotFound)
	if a.cfg.Pending != nil {
		waited = a.cfg.Pending.Approve(ctx, id)
	}
	if waited != nil && !errors.Is(waited, verifier.ErrNotFound) {
		return waited
	}
	if enrolled, err := a.enrolled(id); err != nil {
		return err
	} else if !enrolled {
		return waited
	}
	if waited != nil && a.cfg.Verifier.Waiting(id) == "" {
		return waited
	}
	registered, err := a.cfg.Registrar.Agent(ctx, id)
	if err != nil {
		return fmt.Errorf("agent %s: %w", id, err)
	}
	return a.cfg.Verifier.Approve(ctx, registered)
}

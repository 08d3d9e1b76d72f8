package httpapi

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/internal/httpjson"
	"github.com/assay-project/assay/internal/mtls"
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

func rootView(r verifier.Root) api.Root {
	return api.Root{Fingerprint: r.Fingerprint, Subject: r.Subject, NotAfter: r.NotAfter, Added: r.Added, Origin: r.Origin, Emulated: r.Emulated}
}

func (a *API) listRoots(w http.ResponseWriter, r *http.Request, _ caller) error {
	roots, err := a.cfg.Roots.Roots(r.Context())
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusOK, pageOf(roots, rootView))
	return nil
}

func (a *API) addRoots(w http.ResponseWriter, r *http.Request, c caller) error {
	emulated, err := rootsOfEmulators(r, c)
	if err != nil {
		return err
	}
	text, err := body(w, r, maxBodyBytes)
	if err != nil {
		return err
	}
	certificates, err := endorsement.NewRoots().AddPEM(text)
	if err != nil {
		return fmt.Errorf("%w: %w", verifier.ErrInvalid, err)
	}
	if emulated && c.role != mtls.Administrator {
		if err := a.refuseVendors(r.Context(), certificates, c); err != nil {
			return err
		}
	}
	answer := api.RootsAdded{Added: []api.Root{}}
	for _, cert := range certificates {
		root := verifier.Root{
			Fingerprint: attest.SHA256.Sum(cert.Raw), Subject: cert.Subject.String(), NotAfter: cert.NotAfter,
			PEM:   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
			Added: a.cfg.Now(), Origin: "added by " + c.name, Emulated: emulated,
		}
		if err := a.cfg.Roots.AddRoot(r.Context(), root); err != nil {
			return err
		}
		a.cfg.Log.Info("vendor root added", "subject", root.Subject, "fingerprint", root.Fingerprint, "emulated", emulated, "by", c.name)
		answer.Added = append(answer.Added, rootView(root))
	}
	httpjson.Write(w, http.StatusCreated, answer)
	return nil
}

// refuseVendors keeps whoever may add roots of emulators from marking one as that by which machines are endorsed: all of them would fail.
func (a *API) refuseVendors(ctx context.Context, certificates []*x509.Certificate, c caller) error {
	accepted, err := a.cfg.Roots.Roots(ctx)
	if err != nil {
		return err
	}
	for _, cert := range certificates {
		fingerprint := attest.SHA256.Sum(cert.Raw)
		if slices.ContainsFunc(accepted, func(r verifier.Root) bool { return r.Fingerprint == fingerprint && !r.Emulated }) {
			return fmt.Errorf("%w: %.200q (%s) is accepted as a root of vendors; %s is %s, and only role %s says that it endorses emulators",
				errForbidden, cert.Subject, fingerprint, c.name, c.role, mtls.Administrator)
		}
	}
	return nil
}

func (a *API) removeRoot(w http.ResponseWriter, r *http.Request, c caller) error {
	fingerprint, err := attest.ParseDigest(r.PathValue("digest"))
	if err != nil {
		return fmt.Errorf("%w: %w", verifier.ErrInvalid, err)
	}
	if err := a.cfg.Roots.RemoveRoot(r.Context(), fingerprint); err != nil {
		return fmt.Errorf("vendor root %s: %w", fingerprint, err)
	}
	nodes := a.cfg.Verifier.RestOnRoot(fingerprint)
	a.cfg.Log.Warn("vendor root removed; nodes that it endorses fail", "fingerprint", fingerprint, "by", c.name, "nodes", nodes)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) checkEndorsement(w http.ResponseWriter, r *http.Request, _ caller) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	registered, err := a.cfg.Registrar.Agent(r.Context(), id)
	if err != nil {
		return fmt.Errorf("agent %s: %w", id, err)
	}
	ek, err := endorsement.ParseEK(registered.EK)
	if err != nil {
		return fmt.Errorf("agent %s: endorsement key: %w", id, err)
	}
	accepted, err := verifier.LoadEndorsement(r.Context(), a.cfg.Roots, a.cfg.Keys)
	if err != nil {
		return err
	}
	by, failures := accepted.Roots.Check(ek, registered.Chain, a.cfg.Now())
	httpjson.Write(w, http.StatusOK, api.EndorsementCheck{
		Agent: id, EK: ek.ID(), Endorsed: len(failures) == 0, EndorsedBy: by.Root, Label: string(by.Label), Failures: list(failures),
		Emulated: len(failures) == 0 && slices.Contains(accepted.Emulated, by.RootFingerprint),
	})
	return nil
}

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
	httpjson.Write(w, http.StatusOK, pageOf(ids, func(id attest.AgentID) api.Registered {
		_, err := a.cfg.Verifier.Show(id)
		return api.Registered{Agent: id, Enrolled: err == nil}
	}))
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
	if _, err := a.cfg.Verifier.Show(id); err != nil {
		return waited // it is not enrolled
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

package httpapi

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/internal/httpjson"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/verifier"
)

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

// rootsOfEmulators reads the query "emulated". The operator adds only those: they make nothing trusted that does not name them.
func rootsOfEmulators(r *http.Request, c caller) (bool, error) {
	text := r.URL.Query().Get("emulated")
	emulated := false
	if text != "" {
		var err error
		if emulated, err = strconv.ParseBool(text); err != nil {
			return false, fmt.Errorf("%w: emulated %.20q is neither true nor false", verifier.ErrInvalid, text)
		}
	}
	if !emulated && c.role != mtls.Administrator {
		return false, fmt.Errorf("%w: %s is %s, and only role %s adds roots of vendors (emulated=true is allowed)", errForbidden, c.name, c.role, mtls.Administrator)
	}
	return emulated, nil
}

func (a *API) listKeys(w http.ResponseWriter, r *http.Request, _ caller) error {
	keys, err := a.cfg.Keys.Keys(r.Context())
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusOK, api.Page[api.ListedKey]{Items: list(keys)})
	return nil
}

func (a *API) addKey(w http.ResponseWriter, r *http.Request, c caller) error {
	var key api.ListedKey
	if err := decode(r, maxBodyBytes, &key); err != nil {
		return err
	}
	if err := key.Validate(); err != nil {
		return fmt.Errorf("%w: %w", verifier.ErrInvalid, err)
	}
	key.Added, key.By = a.cfg.Now(), c.name
	if err := a.cfg.Keys.AddKey(r.Context(), key); err != nil {
		return err
	}
	a.cfg.Log.Info("endorsement key listed", "ek", key.EK, "by", c.name)
	httpjson.Write(w, http.StatusCreated, key)
	return nil
}

func (a *API) removeKey(w http.ResponseWriter, r *http.Request, c caller) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if err := a.cfg.Keys.RemoveKey(r.Context(), id); err != nil {
		return fmt.Errorf("listed endorsement key %s: %w", id, err)
	}
	nodes := a.cfg.Verifier.RestOnKey(id)
	a.cfg.Log.Warn("endorsement key listed no longer; a node that rests on it fails", "ek", id, "by", c.name, "nodes", nodes)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

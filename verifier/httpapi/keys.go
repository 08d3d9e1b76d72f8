package httpapi

import (
	"fmt"
	"net/http"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/httpjson"
	"github.com/assay-project/assay/verifier"
)

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

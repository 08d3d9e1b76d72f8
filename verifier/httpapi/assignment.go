package httpapi

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/verifier"
)

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

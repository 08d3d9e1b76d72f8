package verifier

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/httpjson"
	"github.com/assay-project/assay/wire"
)

// maxRecordBytes bounds a registrar's answer.
const maxRecordBytes = 1 << 20

// RegistrarClient asks a registrar over its v2 admin API, Keylime's as well as ours.
type RegistrarClient struct {
	base string
	http *http.Client
}

// NewRegistrarClient makes a client of the registrar at base, "https://host:8891". The configuration holds the servers' CA and a
// certificate that the registrar takes for an administrator's or a verifier's.
func NewRegistrarClient(base string, config *tls.Config) *RegistrarClient {
	return &RegistrarClient{base: base, http: &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: config},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the registrar redirects; that is never followed")
		},
	}}
}

// Agent implements Registrar.
func (c *RegistrarClient) Agent(ctx context.Context, id attest.AgentID) (Registered, error) {
	path := fmt.Sprintf("%s/v%s/agents/%s", c.base, wire.CurrentVersion(), url.PathEscape(string(id)))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	if err != nil {
		return Registered{}, fmt.Errorf("%w: %w", ErrRegistrar, err)
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return Registered{}, fmt.Errorf("%w: %w", ErrRegistrar, err)
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return Registered{}, fmt.Errorf("not registered and activated: %w", ErrNotFound)
	default:
		return Registered{}, fmt.Errorf("%w: it answered %s", ErrRegistrar, answer.Status)
	}
	var body wire.Envelope[wire.AgentRecord]
	if err := httpjson.DecodeTolerant(answer.Body, maxRecordBytes, &body); err != nil {
		return Registered{}, fmt.Errorf("%w: %w", ErrRegistrar, err)
	}
	return registeredOf(id, body.Results)
}

func registeredOf(id attest.AgentID, r wire.AgentRecord) (Registered, error) {
	out := Registered{ID: id, EK: r.EK, AK: r.AIK, Chain: r.Chain()}
	if r.IP != nil {
		out.Address = *r.IP
	}
	if r.Port != nil {
		out.Port = *r.Port
	}
	if r.Certificate != nil && *r.Certificate != wire.CertificateDisabled {
		out.Certificate = *r.Certificate
	}
	if len(out.AK) == 0 || len(out.EK) == 0 {
		return Registered{}, fmt.Errorf("%w: its record of %s has no AK or no EK", ErrRegistrar, id)
	}
	return out, nil
}

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

// Registrar tells who is registered: the v2 admin API of a registrar, in one process too.
type Registrar interface {
	// Agent returns an activated agent, or an error that wraps ErrNotFound.
	Agent(ctx context.Context, id attest.AgentID) (Registered, error)
	// Agents lists the activated agents.
	Agents(ctx context.Context) ([]attest.AgentID, error)
}

// ErrRegistrar says that the registrar could not be asked.
var ErrRegistrar = errors.New("ask the registrar")

// maxRecordBytes bounds a registrar's answer.
const maxRecordBytes = 8 << 20

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
	var body wire.Envelope[wire.AgentRecord]
	if err := c.get(ctx, "/agents/"+url.PathEscape(string(id)), &body); err != nil {
		return Registered{}, err
	}
	return registeredOf(id, body.Results)
}

// Agents implements Registrar.
func (c *RegistrarClient) Agents(ctx context.Context) ([]attest.AgentID, error) {
	var body wire.Envelope[wire.AgentList]
	if err := c.get(ctx, "/agents", &body); err != nil {
		return nil, err
	}
	ids := make([]attest.AgentID, 0, len(body.Results.UUIDs))
	for _, text := range body.Results.UUIDs {
		id, err := attest.ParseAgentID(text)
		if err != nil {
			return nil, fmt.Errorf("%w: its list: %w", ErrRegistrar, err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func (c *RegistrarClient) get(ctx context.Context, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v"+wire.CurrentVersion().String()+path, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRegistrar, err)
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRegistrar, err)
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return fmt.Errorf("not registered and activated: %w", ErrNotFound)
	default:
		return fmt.Errorf("%w: it answered %s", ErrRegistrar, answer.Status)
	}
	if err := httpjson.DecodeTolerant(answer.Body, maxRecordBytes, into); err != nil {
		return fmt.Errorf("%w: %w", ErrRegistrar, err)
	}
	return nil
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

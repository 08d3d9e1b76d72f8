package mtls

import (
	"crypto/tls"
	"fmt"
	"sync"
	"time"
)

// Source gives the certificate that this side presents, at each handshake anew, so that a renewed one is used without a restart.
type Source func() (*tls.Certificate, error)

// Fixed gives one certificate for ever: a command line program's, an agent's own.
func Fixed(cert *tls.Certificate) Source {
	return func() (*tls.Certificate, error) { return cert, nil }
}

// Renewing issues a certificate now and another one whenever a third of its time is left. Keys stay in memory. The request must
// not hold a CSR.
func (a *Authority) Renewing(r Request) (Source, error) {
	if r.CSR != nil {
		return nil, fmt.Errorf("renew certificate of %q: a CSR's key is elsewhere", r.Name)
	}
	renewing := &renewing{authority: a, request: r}
	if _, err := renewing.get(); err != nil {
		return nil, err
	}
	return renewing.get, nil
}

type renewing struct {
	authority *Authority
	request   Request

	mu      sync.Mutex
	current *tls.Certificate // nil before the first issue
	renewAt time.Time
}

func (r *renewing) get() (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current != nil && r.authority.now().Before(r.renewAt) {
		return r.current, nil
	}
	issued, err := r.authority.Issue(r.request)
	if err != nil {
		return nil, err
	}
	cert, err := issued.TLS()
	if err != nil {
		return nil, err
	}
	from, until := issued.Certificate.NotBefore, issued.Certificate.NotAfter
	r.current, r.renewAt = cert, until.Add(-until.Sub(from)/3)
	return cert, nil
}

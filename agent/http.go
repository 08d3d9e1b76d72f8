package agent

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/wire"
)

// maxNonceBytes is Keylime's limit; a nonce goes into the quote as it stands.
const maxNonceBytes = 64

// pull answers Keylime's agent API, version 2: a verifier and a tenant ask, the agent answers. Who may ask is the listener's business.
type pull struct {
	id        attest.AgentID
	device    *device
	key       keyNames
	transport []byte // the transport key in PEM, byte for byte as PCR 16 binds it
	list      *measurementList
	bootLog   []byte
	metrics   *metrics
	log       *slog.Logger
}

// keyNames are the names of the AK's algorithms on the wire.
type keyNames struct {
	encryption string // with its size, such as rsa2048
	signing    string // such as rsassa
}

// refusal is an answer other than success.
type refusal struct {
	code int
	text string
}

func (r *refusal) Error() string { return r.text }

func refuse(code int, format string, args ...any) error {
	return &refusal{code: code, text: fmt.Sprintf(format, args...)}
}

// endpoint makes the results of one call.
type endpoint func(p *pull, r *http.Request, version wire.Version) (any, error)

// route is an endpoint with the one method that it takes.
type route struct {
	method string
	answer endpoint
}

// ServeHTTP finds the endpoint below the version's prefix. The texts are the reference's: its clients look for some of them.
func (p *pull) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 0) // nothing here takes a body
	segments := strings.FieldsFunc(r.URL.Path, func(c rune) bool { return c == '/' })
	found, version, err := find(segments)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	if r.Method != found.method {
		w.Header().Set("Allow", found.method)
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	results, err := found.answer(p, r, version)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	wire.WriteResults(w, results)
}

// find maps a path to its route.
func find(segments []string) (route, wire.Version, error) {
	if len(segments) == 1 && segments[0] == "version" {
		return route{http.MethodGet, (*pull).version}, wire.Version{}, nil
	}
	if len(segments) == 0 || !strings.HasPrefix(segments[0], "v") {
		return route{}, wire.Version{}, refuse(http.StatusBadRequest, "Not Implemented: Use /%s or /version interfaces", strings.Join(wire.VersionNames(), ", /"))
	}
	version, err := wire.PathVersion(segments[0])
	if err != nil {
		return route{}, wire.Version{}, refuse(http.StatusBadRequest, "%v", err)
	}
	path := strings.Join(segments[1:], "/")
	switch path {
	case "version":
		return route{http.MethodGet, (*pull).version}, version, nil
	case "quotes/identity":
		return route{http.MethodGet, (*pull).identity}, version, nil
	case "quotes/integrity":
		return route{http.MethodGet, (*pull).integrity}, version, nil
	case "keys/pubkey":
		return route{http.MethodGet, (*pull).pubkey}, version, nil
	case "agent/info":
		return route{http.MethodGet, (*pull).info}, version, nil
	case "keys/ukey", "keys/vkey", "notifications/revocation":
		return route{http.MethodPost, (*pull).notOffered}, version, nil
	case "keys/verify":
		return route{http.MethodGet, (*pull).notOffered}, version, nil
	}
	if strings.HasPrefix(path, "quotes/") {
		return route{}, version, refuse(http.StatusBadRequest, "URI not supported, only /identity and /integrity are supported for GET in /quotes/ interface")
	}
	return route{}, version, refuse(http.StatusNotFound, "no such endpoint: %.80q", path)
}

// fail writes an error. What is not a refusal is the agent's own trouble: its log gets the reason and the peer, which is
// authenticated, a sentence that helps its operator.
func (p *pull) fail(w http.ResponseWriter, r *http.Request, err error) {
	var refused *refusal
	if !errors.As(err, &refused) {
		p.log.Error("answer a request", "path", r.URL.Path, "err", err)
		refused = &refusal{code: http.StatusInternalServerError, text: err.Error()}
	}
	wire.WriteStatus(w, refused.code, refused.text)
}

func (p *pull) version(*http.Request, wire.Version) (any, error) {
	return wire.AgentVersionResults{SupportedVersion: wire.CurrentVersion().String(), SupportedVersions: wire.VersionNames()}, nil
}

func (p *pull) pubkey(*http.Request, wire.Version) (any, error) {
	return wire.PubkeyResults{Pubkey: string(p.transport)}, nil
}

func (p *pull) info(_ *http.Request, version wire.Version) (any, error) {
	// The AK is loaded as needed and has no handle that would mean anything to others: ak_handle is 0.
	return wire.AgentInfo{
		AgentID: string(p.id), HashAlg: bank.String(), EncAlg: version.KeyAlgorithm(p.key.encryption),
		SignAlg: p.key.signing,
	}, nil
}

// notOffered answers the calls of Keylime's payload delivery: the agent unpacks no archive and runs no script.
func (p *pull) notOffered(r *http.Request, _ wire.Version) (any, error) {
	return nil, refuse(http.StatusNotImplemented, "%s is not offered by this agent: it takes no payload", r.URL.Path)
}

func (p *pull) identity(r *http.Request, version wire.Version) (any, error) {
	query, err := parseQuery(r)
	if err != nil {
		return nil, err
	}
	nonce, err := query.nonce()
	if err != nil {
		return nil, err
	}
	results, err := p.quote(nonce, pcr.Select(bank), version)
	if err != nil {
		return nil, err
	}
	results.Pubkey = string(p.transport)
	return results, nil
}

// integrity quotes first and reads the list afterwards: entries that came in between are in the list but not in the quote, which the
// verifier understands, and never the other way round.
func (p *pull) integrity(r *http.Request, version wire.Version) (any, error) {
	want, err := parseIntegrity(r)
	if err != nil {
		return nil, err
	}
	results, err := p.quote(want.nonce, want.selection, version)
	if err != nil {
		return nil, err
	}
	if !want.partial {
		results.Pubkey = string(p.transport)
	}
	if p.list != nil {
		text, first, err := p.list.from(want.entry)
		if err != nil {
			return nil, err
		}
		list := string(text)
		if !utf8.Valid(text) {
			list, results.ImaMeasurementListBytes = strings.ToValidUTF8(list, "\ufffd"), base64.StdEncoding.EncodeToString(text)
		}
		results.ImaMeasurementList, results.ImaMeasurementListEntry = &list, &first
		p.metrics.listEntries.Set(float64(p.list.entries()))
	}
	if want.selection.Has(0) && len(p.bootLog) > 0 {
		results.MbMeasurementList = base64.StdEncoding.EncodeToString(p.bootLog)
	}
	return results, nil
}

// quote asks the TPM and fills what every quote's answer holds.
func (p *pull) quote(nonce []byte, selection pcr.Selection, version wire.Version) (*wire.QuoteResults, error) {
	done := p.metrics.quoteStarted()
	raw, err := p.device.quote(nonce, selection, p.transport)
	done(err)
	if err != nil {
		return nil, err
	}
	return &wire.QuoteResults{
		Quote: wire.PackQuote(raw), HashAlg: bank.String(),
		EncAlg: version.KeyAlgorithm(p.key.encryption), SignAlg: p.key.signing,
	}, nil
}

// query is a request's query with each key at most once.
type query url.Values

func parseQuery(r *http.Request) (query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "Query deserialize error: %v", err)
	}
	for name, all := range values {
		if len(all) > 1 {
			return nil, refuse(http.StatusBadRequest, "Query deserialize error: duplicate field `%.40s`", name)
		}
	}
	return query(values), nil
}

// required returns the value of a key that must be there.
func (q query) required(name string) (string, error) {
	if _, found := q[name]; !found {
		return "", refuse(http.StatusBadRequest, "Query deserialize error: missing field `%s`", name)
	}
	return q[name][0], nil
}

func (q query) nonce() ([]byte, error) {
	nonce, err := q.required("nonce")
	if err != nil {
		return nil, err
	}
	if len(nonce) > maxNonceBytes {
		return nil, refuse(http.StatusBadRequest, "Nonce is too long (max size %d): %.80s", maxNonceBytes, nonce)
	}
	for _, c := range []byte(nonce) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') {
			return nil, refuse(http.StatusBadRequest, "Parameters should be strictly alphanumeric: %s", nonce)
		}
	}
	if nonce == "" {
		return nil, refuse(http.StatusBadRequest, "Nonce is empty")
	}
	return []byte(nonce), nil
}

// integrityRequest is what an integrity quote is asked for.
type integrityRequest struct {
	nonce     []byte
	selection pcr.Selection
	partial   bool
	entry     uint64
}

func parseIntegrity(r *http.Request) (integrityRequest, error) {
	var want integrityRequest
	query, err := parseQuery(r)
	if err != nil {
		return want, err
	}
	if want.nonce, err = query.nonce(); err != nil {
		return want, err
	}
	if want.selection, err = query.mask(); err != nil {
		return want, err
	}
	partial, err := query.required("partial")
	if err != nil {
		return want, err
	}
	if partial != "0" && partial != "1" {
		return want, refuse(http.StatusBadRequest, "uri must contain key 'partial' and value '0' or '1'")
	}
	want.partial = partial == "1"
	if entry, found := query["ima_ml_entry"]; found {
		if want.entry, err = strconv.ParseUint(entry[0], 10, 63); err != nil {
			return want, refuse(http.StatusBadRequest, "ima_ml_entry should be a decimal number: %.80s", entry[0])
		}
	}
	return want, nil
}

func (q query) mask() (pcr.Selection, error) {
	text, err := q.required("mask")
	if err != nil {
		return pcr.Selection{}, err
	}
	mask, err := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 32)
	if err != nil {
		return pcr.Selection{}, refuse(http.StatusBadRequest, "mask should be a hex encoded 32-bit integer: %.80s", text)
	}
	if mask>>pcr.Count != 0 {
		return pcr.Selection{}, refuse(http.StatusBadRequest, "mask %.16s names a PCR beyond %d", text, pcr.Count-1)
	}
	return pcr.Selection{Bank: bank, Mask: uint32(mask)}, nil
}

// Package pull collects evidence from agents that answer over Keylime's agent API, version 2.
//
// It says who answered (nobody but the holder of the certificate that was registered), within which bounds of bytes and time, and whether what
// came is an answer at all. What an answer claims is for others to verify.
package pull

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/internal/httpjson"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/machine"
	"github.com/assay-project/assay/wire"
)

// Bounds of an agent's answer: the list of a busy machine has some 100 bytes an entry.
const (
	maxAgentAnswerBytes = machine.MaxListBytes
	maxAgentHeaderBytes = 64 << 10
	maxBootLogBytes     = 4 << 20
	maxVersionBytes     = 64 << 10
	idlePerAgent        = 90 * time.Second
)

// How long a party that says nothing may keep a round: as many rounds as run at once would otherwise wait for dead machines, and none be left.
const (
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 10 * time.Second
)

// An answer may take freeAnswerBytes without asking. One that goes on waits for one of bigAnswers places, within its round's time, so that all
// agents together fill no more memory than a few of the largest answers; it keeps the place until it is judged. First rounds and those after a long silence need a place.
const (
	freeAnswerBytes = 1 << 20
	bigAnswers      = 4
)

// How fast an answer that holds a place has to come: N bytes may take placeGrace and N / placeRate. One that trickles would keep the others waiting.
const (
	placeGrace = 5 * time.Second
	placeRate  = 512 << 10 // bytes per second
)

// Collector asks agents over Keylime's agent API, version 2 (reference section 2). Each agent has a TLS configuration and a session cache
// of its own, which accept nothing but the certificate that was registered.
type Collector struct {
	certificate mtls.Source
	now         func() time.Time
	big         chan struct{} // holds a token for each answer that grew beyond freeAnswerBytes
	// dial, handshake, grace and most are dialTimeout, handshakeTimeout, placeGrace and maxPeers, but for tests.
	dial, handshake, grace time.Duration
	most                   int

	mu    sync.Mutex
	peers map[string]*peer // by pinned certificate and address
}

// peer is one agent's connection state.
type peer struct {
	http    *http.Client
	host    string
	big     chan struct{}                // the Collector's
	grace   time.Duration                // the Collector's
	version atomic.Pointer[wire.Version] // nil before the first answer; a dropped round may still be writing it
}

// New makes a collector that presents a verifier-client's certificate. A nil clock is time.Now.
func New(certificate mtls.Source, now func() time.Time) *Collector {
	return &Collector{
		certificate: certificate, now: now, big: make(chan struct{}, bigAnswers), dial: dialTimeout, handshake: handshakeTimeout, grace: placeGrace,
		most: maxPeers, peers: make(map[string]*peer),
	}
}

// maxPeers bounds the kept connections; beyond it all of them are dropped and made anew as they are needed.
const maxPeers = 20_000

func (p *Collector) peer(to verifier.Enrolment) (*peer, error) {
	host := net.JoinHostPort(to.Address, strconv.Itoa(to.Port))
	key := host + "\n" + to.Certificate
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.peers[key]; known != nil {
		return known, nil
	}
	block, _ := pem.Decode([]byte(to.Certificate))
	if block == nil {
		return nil, errors.New("the agent registered no server certificate, so nothing can be pinned")
	}
	config, err := mtls.Peer{Certificate: p.certificate, Now: p.now}.PinCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	if len(p.peers) >= p.most {
		clear(p.peers)
	}
	known := &peer{host: host, big: p.big, grace: p.grace, http: &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: config, MaxIdleConnsPerHost: 1, IdleConnTimeout: idlePerAgent, TLSHandshakeTimeout: p.handshake,
			DialContext: (&net.Dialer{Timeout: p.dial}).DialContext, MaxResponseHeaderBytes: maxAgentHeaderBytes,
		},
		// A redirect is never followed: it is an answer, and not to the question.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	p.peers[key] = known
	return known, nil
}

// Collect implements verifier.Collector.
func (p *Collector) Collect(ctx context.Context, to verifier.Enrolment, r machine.Request) (verifier.Collected, error) {
	agent, err := p.peer(to)
	if err != nil {
		return verifier.Collected{}, err
	}
	if agent.version.Load() == nil {
		if err := agent.negotiate(ctx); err != nil {
			return verifier.Collected{}, err
		}
	}
	results, held, err := agent.quote(ctx, r)
	if errors.Is(err, errVersion) {
		if err = agent.negotiate(ctx); err == nil {
			results, held, err = agent.quote(ctx, r)
		}
	}
	if err != nil {
		return verifier.Collected{}, err
	}
	answer, err := answerOf(results)
	if err != nil {
		held.release()
		return verifier.Collected{}, err
	}
	return verifier.Collected{Answer: answer, Release: held.release}, nil
}

// notSupported is in the reference's answer to a version that it does not speak.
const notSupported = "API version not supported"

// errVersion says that the agent does not speak the version that it was asked in. After a negotiation it is no answer to the question.
var errVersion = fmt.Errorf("%w: %s", verifier.ErrMalformed, notSupported)

func (a *peer) negotiate(ctx context.Context) error {
	var answer wire.Envelope[wire.AgentVersionResults]
	held, err := a.get(ctx, url.URL{Path: "/version"}, limited{&answer, maxVersionBytes})
	if err != nil {
		return err
	}
	held.release()
	version, ok := wire.Negotiate(answer.Results.All())
	if !ok {
		return fmt.Errorf("%w: the agent speaks %.100q, we %v", verifier.ErrMalformed, answer.Results.All(), wire.VersionNames())
	}
	a.version.Store(&version)
	return nil
}

func (a *peer) quote(ctx context.Context, r machine.Request) (wire.QuoteResults, *seat, error) {
	partial := "1"
	if r.Full {
		partial = "0"
	}
	query := url.Values{
		"nonce": {r.Nonce}, "mask": {fmt.Sprintf("0x%x", r.Selection.Mask)}, "partial": {partial},
		"ima_ml_entry": {strconv.FormatUint(r.Offset, 10)},
	}
	var answer wire.Envelope[wire.QuoteResults]
	held, err := a.get(ctx, url.URL{Path: "/v" + a.version.Load().String() + "/quotes/integrity", RawQuery: query.Encode()}, limited{&answer, maxAgentAnswerBytes})
	return answer.Results, held, err
}

// limited is what an answer of so many bytes at most is read into.
type limited struct {
	into  any
	bytes int64
}

// get reads one JSON answer. What never came, or came with a status of 500 and up, is silence; everything else that is no answer to the
// question is ErrMalformed. Without an error, the answer holds the place that it may have needed.
func (a *peer) get(ctx context.Context, what url.URL, to limited) (*seat, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	what.Scheme, what.Host = "https", a.host
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, what.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("address of the agent: %w", err)
	}
	answer, err := a.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the agent: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 500 {
		return nil, fmt.Errorf("the agent answered %s", answer.Status)
	}
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
		if answer.StatusCode == http.StatusBadRequest && strings.Contains(string(text), notSupported) {
			return nil, errVersion
		}
		return nil, fmt.Errorf("%w: status %s: %.200q", verifier.ErrMalformed, answer.Status, text)
	}
	metered := &meteredBody{ended: ctx.Done(), body: answer.Body, seat: &seat{all: a.big}, free: freeAnswerBytes, grace: a.grace, cut: cancel}
	err = httpjson.DecodeTolerant(metered, to.bytes, to.into)
	metered.arrived()
	if err == nil {
		return metered.seat, nil
	}
	metered.seat.release()
	if _, judged := httpjson.StatusOf(err); judged {
		return nil, fmt.Errorf("%w: %w", verifier.ErrMalformed, err)
	}
	return nil, fmt.Errorf("read the agent's answer: %w", err)
}

func answerOf(q wire.QuoteResults) (machine.Answer, error) {
	answer := machine.Answer{Quote: q.Quote, TransportKey: q.Pubkey}
	if q.ImaMeasurementListBytes != "" && q.ImaMeasurementList == nil {
		return machine.Answer{}, fmt.Errorf("%w: ima_measurement_list_bytes without ima_measurement_list", verifier.ErrMalformed)
	}
	if q.ImaMeasurementList != nil {
		answer.HasList, answer.List = true, []byte(*q.ImaMeasurementList)
		if q.ImaMeasurementListBytes != "" {
			var err error
			if answer.List, err = base64.StdEncoding.Strict().DecodeString(q.ImaMeasurementListBytes); err != nil {
				return machine.Answer{}, fmt.Errorf("%w: ima_measurement_list_bytes: %w", verifier.ErrMalformed, err)
			}
		}
		if q.ImaMeasurementListEntry == nil {
			return machine.Answer{}, fmt.Errorf("%w: a measurement list without ima_measurement_list_entry", verifier.ErrMalformed)
		}
		answer.First = *q.ImaMeasurementListEntry
	}
	if q.MbMeasurementList != "" {
		log, err := base64.StdEncoding.Strict().DecodeString(q.MbMeasurementList)
		if err != nil {
			return machine.Answer{}, fmt.Errorf("%w: mb_measurement_list: %w", verifier.ErrMalformed, err)
		}
		if len(log) > maxBootLogBytes {
			return machine.Answer{}, fmt.Errorf("%w: mb_measurement_list has %d bytes, more than %d", verifier.ErrMalformed, len(log), maxBootLogBytes)
		}
		answer.BootLog = log
	}
	return answer, nil
}

package pull

import (
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/internal/mtls/mtlstest"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/machine"
	"github.com/assay-project/assay/wire"
)

// pullAgent is an agent's port: real TLS with a self-signed certificate, answers as the test wants them.
type pullAgent struct {
	to verifier.Enrolment

	mu      sync.Mutex
	asked   []string
	version func(w http.ResponseWriter)
	quote   func(w http.ResponseWriter, r *http.Request)
}

func newPullAgent(t *testing.T) *pullAgent {
	t.Helper()
	certificate := mtlstest.SelfSigned(t)
	leaf, err := certificate()
	if err != nil {
		t.Fatal(err)
	}
	a := &pullAgent{}
	a.version = func(w http.ResponseWriter) {
		wire.WriteResults(w, wire.AgentVersionResults{SupportedVersion: "2.6", SupportedVersions: []string{"1.0", "2.2", "2.6", "9.9"}})
	}
	a.quote = func(w http.ResponseWriter, _ *http.Request) { wire.WriteResults(w, goodResults()) }
	server := httptest.NewUnstartedServer(a)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	mtlstest.StartTLS(t, server, certificate)
	t.Cleanup(server.Close)
	address, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a.to = verifier.Enrolment{Address: address, Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}))}
	if a.to.Port, err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	return a
}

func goodResults() wire.QuoteResults {
	list, first := "10 ab ima-ng\n", uint64(7)
	return wire.QuoteResults{Quote: "rAAAA:BBBB:CCCC", Pubkey: "PEM", ImaMeasurementList: &list, ImaMeasurementListEntry: &first, MbMeasurementList: "bG9n"}
}

func (a *pullAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.asked = append(a.asked, r.URL.String())
	version, quote := a.version, a.quote
	a.mu.Unlock()
	if r.URL.Path == "/version" {
		version(w)
		return
	}
	quote(w, r)
}

func (a *pullAgent) urls() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.asked...)
}

func newPull(t *testing.T) *Collector {
	t.Helper()
	return New(mtlstest.SelfSigned(t), nil)
}

var pullRequest = machine.Request{Nonce: "ABCDEFGHIJKLMNOPQRST", Selection: pcr.Select(attest.SHA256, 0, 10), Offset: 7}

func TestPullCollects(t *testing.T) {
	a, p := newPullAgent(t), newPull(t)
	want := machine.Answer{Quote: "rAAAA:BBBB:CCCC", TransportKey: "PEM", List: []byte("10 ab ima-ng\n"), HasList: true, First: 7, BootLog: []byte("log")}
	for range 2 {
		got, err := p.Collect(t.Context(), a.to, pullRequest)
		if diff := cmp.Diff(want, got.Answer); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
	}
	full := pullRequest
	full.Full, full.Offset = true, 0
	if _, err := p.Collect(t.Context(), a.to, full); err != nil {
		t.Error(err)
	}
	quote := "/v2.6/quotes/integrity?ima_ml_entry=7&mask=0x401&nonce=ABCDEFGHIJKLMNOPQRST&partial=1"
	asked := []string{"/version", quote, quote, "/v2.6/quotes/integrity?ima_ml_entry=0&mask=0x401&nonce=ABCDEFGHIJKLMNOPQRST&partial=0"}
	if diff := cmp.Diff(asked, a.urls()); diff != "" {
		t.Error(diff)
	}
}

// An agent that was replaced by an older one says that it does not speak the version; it is asked again, once.
func TestPullNegotiatesAgain(t *testing.T) {
	a, p := newPullAgent(t), newPull(t)
	if _, err := p.Collect(t.Context(), a.to, pullRequest); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	a.version = func(w http.ResponseWriter) {
		wire.WriteResults(w, wire.AgentVersionResults{SupportedVersion: "2.2"})
	}
	a.quote = func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/v2.2/") {
			wire.WriteStatus(w, http.StatusBadRequest, "API version not supported")
			return
		}
		wire.WriteResults(w, goodResults())
	}
	a.mu.Unlock()
	if _, err := p.Collect(t.Context(), a.to, pullRequest); err != nil {
		t.Errorf("after a downgrade: %v", err)
	}
	a.mu.Lock()
	a.asked = nil
	a.quote = func(w http.ResponseWriter, _ *http.Request) {
		wire.WriteStatus(w, http.StatusBadRequest, "API version not supported")
	}
	a.mu.Unlock()
	if _, err := p.Collect(t.Context(), a.to, pullRequest); !errors.Is(err, verifier.ErrMalformed) {
		t.Errorf("an agent that refuses what it offered: %v, want ErrMalformed", err)
	}
	if n := len(a.urls()); n != 3 {
		t.Errorf("asked %d times", n)
	}
}

// Answers that are no evidence are malformed; what is no answer is silence.
func TestPullTellsSilenceFromGarbage(t *testing.T) {
	status := func(code int) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { wire.WriteStatus(w, code, "no") }
	}
	body := func(text string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }
	}
	edited := func(edit func(*wire.QuoteResults)) func(http.ResponseWriter, *http.Request) {
		r := goodResults()
		edit(&r)
		return func(w http.ResponseWriter, _ *http.Request) { wire.WriteResults(w, r) }
	}
	tests := map[string]struct {
		quote     func(http.ResponseWriter, *http.Request)
		malformed bool
	}{
		"500":               {status(500), false},
		"503":               {status(503), false},
		"400":               {status(400), true},
		"404":               {status(404), true},
		"201":               {status(201), true},
		"a redirect":        {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/version", http.StatusFound) }, true},
		"no JSON":           {body("<html>"), true},
		"duplicate keys":    {body(`{"code":200,"code":200,"status":"","results":{}}`), true},
		"bytes behind":      {body(`{"code":200,"status":"","results":{}} {}`), true},
		"nothing":           {body(""), true},
		"results of a type": {body(`{"code":200,"status":"","results":[]}`), true},
		"bytes, no list": {edited(func(r *wire.QuoteResults) {
			r.ImaMeasurementList, r.ImaMeasurementListEntry, r.ImaMeasurementListBytes = nil, nil, "AAAA"
		}), true},
		"bytes, no base64":   {edited(func(r *wire.QuoteResults) { r.ImaMeasurementListBytes = "list!" }), true},
		"bytes, not strict":  {edited(func(r *wire.QuoteResults) { r.ImaMeasurementListBytes = "bG9=" }), true},
		"a list, no entry":   {edited(func(r *wire.QuoteResults) { r.ImaMeasurementListEntry = nil }), true},
		"a log, no base64":   {edited(func(r *wire.QuoteResults) { r.MbMeasurementList = "log!" }), true},
		"a log, not strict":  {edited(func(r *wire.QuoteResults) { r.MbMeasurementList = "bG9=" }), true},
		"a log of 4 MiB + 3": {edited(func(r *wire.QuoteResults) { r.MbMeasurementList = strings.Repeat("AAAA", maxBootLogBytes/3+1) }), true},
		"a cut connection": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, `{"code":200`)
		}, false},
		"endless": {func(w http.ResponseWriter, _ *http.Request) { endless(w) }, true},
		"a bomb": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			zip := gzip.NewWriter(w)
			defer zip.Close()
			endless(zip)
		}, true},
		"endless headers": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 2*maxAgentHeaderBytes))
		}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a, p := newPullAgent(t), newPull(t)
			good := a.quote
			a.quote = tt.quote
			if _, err := p.Collect(t.Context(), a.to, pullRequest); err == nil || errors.Is(err, verifier.ErrMalformed) != tt.malformed {
				t.Errorf("%v; malformed should be %t", err, tt.malformed)
			}
			a.mu.Lock()
			a.quote = good
			a.mu.Unlock()
			if _, err := p.Collect(t.Context(), a.to, pullRequest); err != nil {
				t.Errorf("a good answer afterwards: %v", err)
			}
		})
	}
}

// endless writes more than any answer may hold.
func endless(w io.Writer) {
	io.WriteString(w, `{"code":200,"status":"`)
	block := []byte(strings.Repeat("x", 1<<20))
	for range maxAgentAnswerBytes>>20 + 1 {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

// A party that accepts connections and says nothing is silence soon: while it is waited for, it takes the place of another's round.
func TestPullDoesNotWaitForTheDead(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dead.Close() })
	a := newPullAgent(t)
	port := dead.Addr().(*net.TCPAddr).Port
	for name, edit := range map[string]func(*Collector){
		"no handshake":  func(p *Collector) { p.handshake = 50 * time.Millisecond },
		"no connection": func(p *Collector) { p.dial = time.Nanosecond },
	} {
		t.Run(name, func(t *testing.T) {
			p, to := newPull(t), a.to
			edit(p)
			to.Port = port
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if _, err := p.Collect(ctx, to, pullRequest); err == nil || errors.Is(err, verifier.ErrMalformed) || ctx.Err() != nil {
				t.Errorf("%v; want silence before the round ends", err)
			}
			if _, err := newPull(t).Collect(t.Context(), a.to, pullRequest); err != nil {
				t.Errorf("the agent itself: %v", err)
			}
		})
	}
}

func TestPullOffersNoVersion(t *testing.T) {
	for name, tt := range map[string]struct {
		version   func(http.ResponseWriter)
		malformed bool
	}{
		"none of ours": {func(w http.ResponseWriter) {
			wire.WriteResults(w, wire.AgentVersionResults{SupportedVersion: "1.0", SupportedVersions: []string{"1.0", "3.0", "\x1b[2J"}})
		}, true},
		"none at all": {func(w http.ResponseWriter) { wire.WriteResults(w, wire.Empty{}) }, true},
		"too many": {func(w http.ResponseWriter) {
			wire.WriteResults(w, wire.AgentVersionResults{SupportedVersions: append(make([]string, maxVersionBytes/3), wire.VersionNames()...)})
		}, true},
		"a refusal": {func(w http.ResponseWriter) { wire.WriteStatus(w, 400, "API version not supported") }, true},
		"500":       {func(w http.ResponseWriter) { wire.WriteStatus(w, 500, "") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			a, p := newPullAgent(t), newPull(t)
			a.version = tt.version
			if _, err := p.Collect(t.Context(), a.to, pullRequest); err == nil || errors.Is(err, verifier.ErrMalformed) != tt.malformed {
				t.Errorf("%v; malformed should be %t", err, tt.malformed)
			}
		})
	}
}

// Only the registered certificate is the agent: everybody else at its address is told apart, and learns nothing, not even the nonce.
func TestPullPinsTheCertificate(t *testing.T) {
	a, p := newPullAgent(t), newPull(t)
	other := newPullAgent(t)
	mixed := a.to
	mixed.Certificate = other.to.Certificate
	for name, tt := range map[string]struct {
		to  verifier.Enrolment
		pin bool
	}{
		"another certificate": {mixed, true},
		"no certificate":      {verifier.Enrolment{Address: a.to.Address, Port: a.to.Port}, false},
		"garbage":             {verifier.Enrolment{Address: a.to.Address, Port: a.to.Port, Certificate: "PEM"}, false},
	} {
		_, err := p.Collect(t.Context(), tt.to, pullRequest)
		if err == nil || errors.Is(err, verifier.ErrMalformed) || errors.Is(err, mtls.ErrPin) != tt.pin {
			t.Errorf("%s: %v", name, err)
		}
	}
	if asked := a.urls(); len(asked) > 0 {
		t.Errorf("it was asked %v", asked)
	}
	if _, err := p.Collect(t.Context(), a.to, pullRequest); err != nil {
		t.Errorf("the registered certificate: %v", err)
	}
}

func TestPullAddresses(t *testing.T) {
	p := newPull(t)
	a := newPullAgent(t)
	for _, address := range []string{"fe80::1%lo", "::1", "a/b", "a?b", "a b", "user@127.0.0.1", "", strings.Repeat("x", 300)} {
		to := a.to
		to.Address, to.Port = address, 1
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		_, err := p.Collect(ctx, to, pullRequest)
		cancel()
		if err == nil || errors.Is(err, verifier.ErrMalformed) {
			t.Errorf("%q: %v, want silence", address, err)
		}
	}
	if asked := a.urls(); len(asked) > 0 {
		t.Errorf("it was asked %v", asked)
	}
}

// The exact bytes of a list come before its rendering as text, which is all that Keylime's agents send.
func TestListThatIsNotUTF8(t *testing.T) {
	text, first := "10 a\ufffdb\n", uint64(0)
	results := wire.QuoteResults{ImaMeasurementList: &text, ImaMeasurementListEntry: &first}
	if a, err := answerOf(results); err != nil || string(a.List) != text {
		t.Errorf("without bytes: %q, %v", a.List, err)
	}
	results.ImaMeasurementListBytes = base64.StdEncoding.EncodeToString([]byte("10 a\xffb\n"))
	if a, err := answerOf(results); err != nil || string(a.List) != "10 a\xffb\n" {
		t.Errorf("with bytes: %q, %v", a.List, err)
	}
}

// Agents that come and go cost a bounded memory, and those that stay lose no more than a connection.
func TestPeersAreBounded(t *testing.T) {
	a, p := newPullAgent(t), newPull(t)
	p.most = 3
	for i := range 10 {
		gone := a.to
		gone.Address = "127.0.1." + strconv.Itoa(i)
		if _, err := p.peer(gone); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Collect(t.Context(), a.to, pullRequest); err != nil {
			t.Errorf("after %d others: %v", i+1, err)
		}
		if len(p.peers) > p.most {
			t.Fatalf("%d connections are kept, want %d at most", len(p.peers), p.most)
		}
	}
}

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/assay-project/assay/internal/httpjson"
)

// Limits of the agent's own requests.
const (
	maxAnswerBytes      = 1 << 20
	maxExplanationBytes = 4 << 10
	requestTimeout      = 30 * time.Second
)

// caller sends JSON to one server and reads JSON from it. The server's identity is the TLS configuration's business; redirects are
// not followed.
type caller struct {
	base   string // scheme and authority, without a slash at the end
	client *http.Client
}

// request is one call. Token, when not empty, goes into the Authorization header.
type request struct {
	method, path string
	token        string
	body         any
}

// statusError is an answer outside 2xx.
type statusError struct {
	method, url string
	code        int
	text        string // what the server said of it, cut and not trusted
}

func (e *statusError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("%s %s: %d %s", e.method, e.url, e.code, http.StatusText(e.code))
	}
	return fmt.Sprintf("%s %s: %d: %s", e.method, e.url, e.code, e.text)
}

// statusOf returns the status of an answer that was refused, or 0 for every other error.
func statusOf(err error) int {
	var status *statusError
	if errors.As(err, &status) {
		return status.code
	}
	return 0
}

// newHTTPClient makes a client that follows no redirect and keeps few connections.
func newHTTPClient(transport *http.Transport) *http.Client {
	transport.MaxIdleConnsPerHost = 1
	transport.IdleConnTimeout = 2 * time.Minute
	return &http.Client{
		Transport:     transport,
		Timeout:       requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// call makes a request and decodes the answer into answer, which may be nil.
func (c caller) call(ctx context.Context, want request, answer any) error {
	var body io.Reader
	if want.body != nil {
		encoded, err := json.Marshal(want.body)
		if err != nil {
			return fmt.Errorf("%s %s: encode body: %w", want.method, want.path, err)
		}
		body = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, want.method, c.base+want.path, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", want.method, want.path, err)
	}
	if want.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	if want.token != "" {
		req.Header.Set("Authorization", "Bearer "+want.token)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return err // names method, address and reason
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxExplanationBytes))
		if err != nil {
			return fmt.Errorf("%s %s: %d: read answer: %w", want.method, req.URL, resp.StatusCode, err)
		}
		return &statusError{method: want.method, url: req.URL.String(), code: resp.StatusCode, text: explanation(text)}
	}
	if answer == nil {
		return nil
	}
	if err := httpjson.DecodeTolerant(resp.Body, maxAnswerBytes, answer); err != nil {
		return fmt.Errorf("%s %s: answer: %w", want.method, req.URL, err)
	}
	return nil
}

// explanation finds the sentence in an error's body: the native API's "detail", or Keylime's "status", which is a number there.
func explanation(body []byte) string {
	const maxShown = 300
	text := strings.TrimSpace(string(body))
	var members map[string]any
	if json.Unmarshal(body, &members) == nil {
		for _, name := range []string{"detail", "status"} {
			if said, ok := members[name].(string); ok && said != "" {
				text = said
				break
			}
		}
	}
	if len(text) > maxShown {
		text = text[:maxShown] + "..."
	}
	return strings.ToValidUTF8(text, "?")
}

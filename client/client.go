// Package client is the Go client of the native API, /api/v1.
//
// It trusts the server only as far as its TLS configuration says, follows no redirect, and bounds every answer. An answer with a status of 400 and up is a *ProblemError;
// any other outside of 2xx is an error too: a proxy's, since the server gives none.
package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
)

// Limits of answers.
const (
	maxAnswerBytes = 256 << 20 // a node's evidence with its whole list
	maxEventBytes  = 4 << 20
	// maxProblemBytes bounds what is read of a refusal.
	maxProblemBytes = 1 << 16
)

// Config says whom to speak to and as whom.
type Config struct {
	// URL is the server's, "https://host:8443".
	URL string
	// TLS holds the server's CA and the client's certificate.
	TLS *tls.Config
	// Timeout of a request, not of Watch; 0 means 60 s.
	Timeout time.Duration
}

// Client speaks to one server. It is safe for concurrent use.
type Client struct {
	base    *url.URL
	http    *http.Client
	timeout time.Duration
}

// New checks the configuration. It does not connect.
func New(cfg Config) (*Client, error) {
	base, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("server URL: %w", err)
	}
	if base.Scheme != "https" || base.Host == "" || strings.Trim(base.Path, "/") != "" {
		return nil, fmt.Errorf("server URL %q: want https://host:port", cfg.URL)
	}
	base.Path = "/"
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute
	}
	transport := &http.Transport{TLSClientConfig: cfg.TLS, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 20 * time.Second}
	return &Client{base: base, timeout: cfg.Timeout, http: &http.Client{
		Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the server redirects; that is never followed")
		},
	}}, nil
}

// ProblemError is an answer with a status of 400 and up.
type ProblemError struct{ api.Problem }

// Error gives the server's words.
func (e *ProblemError) Error() string { return fmt.Sprintf("%s (%d %s)", e.Detail, e.Status, e.Title) }

// NotFound reports whether err says that the thing asked for is not there.
func NotFound(err error) bool {
	var p *ProblemError
	return errors.As(err, &p) && p.Status == http.StatusNotFound
}

type call struct {
	method, path string
	query        url.Values
	body         any // JSON, or []byte as it is
}

func (c *Client) do(ctx context.Context, what call, into any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	body, err := c.send(ctx, what)
	if err != nil {
		return err
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, maxAnswerBytes+1))
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", what.path, err)
	}
	if len(text) > maxAnswerBytes {
		return fmt.Errorf("answer of %s has more than %d bytes", what.path, maxAnswerBytes)
	}
	switch into := into.(type) {
	case nil:
		return nil
	case *[]byte:
		*into = text
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("answer of %s: %w", what.path, err)
	}
	return nil
}

// send makes the request and returns the body of a good answer.
func (c *Client) send(ctx context.Context, what call) (io.ReadCloser, error) {
	target := c.base.JoinPath(what.path)
	if target.EscapedPath() != what.path || strings.HasSuffix(what.path, "/") { // a name of "..", "." or "" would reach another resource
		return nil, fmt.Errorf("request %s: an empty name, . and .. name nothing", what.path)
	}
	target.RawQuery = what.query.Encode()
	var body io.Reader
	kind := ""
	switch b := what.body.(type) {
	case nil:
	case []byte:
		body, kind = bytes.NewReader(b), "application/octet-stream"
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return nil, fmt.Errorf("request %s: %w", what.path, err)
		}
		body, kind = bytes.NewReader(text), "application/json"
	}
	request, err := http.NewRequestWithContext(ctx, what.method, target.String(), body)
	if err != nil {
		return nil, fmt.Errorf("request %s: %w", what.path, err)
	}
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the server: %w", err)
	}
	if answer.StatusCode/100 == 2 {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	if answer.StatusCode < 400 {
		return nil, fmt.Errorf("%s %s: the server answers %s, which it never does", what.method, what.path, answer.Status)
	}
	return nil, &ProblemError{problemOf(what, answer)}
}

// problemOf reads why a request was refused. Callers act on the status, so it is the answer's and never one that the body claims.
func problemOf(what call, answer *http.Response) api.Problem {
	var problem api.Problem
	text, _ := io.ReadAll(io.LimitReader(answer.Body, maxProblemBytes))
	if err := json.Unmarshal(text, &problem); err != nil || problem.Detail == "" {
		problem = api.Problem{Detail: fmt.Sprintf("%s %s was refused", what.method, what.path)}
	}
	problem.Status, problem.Title = answer.StatusCode, http.StatusText(answer.StatusCode)
	return problem
}

// all reads every page of a list.
func all[T any](ctx context.Context, c *Client, path string) ([]T, error) {
	return selected[T](ctx, c, path, url.Values{})
}

// selected reads every page of what a query selects of a list.
func selected[T any](ctx context.Context, c *Client, path string, query url.Values) ([]T, error) {
	var items []T
	query.Set("limit", strconv.Itoa(api.MaxPage))
	for {
		var p api.Page[T]
		if err := c.do(ctx, call{method: http.MethodGet, path: path, query: query}, &p); err != nil {
			return nil, err
		}
		items = append(items, p.Items...)
		if p.Next == "" {
			return items, nil
		}
		if len(p.Items) == 0 || p.Next == query.Get("cursor") {
			return nil, fmt.Errorf("answer of %s: the page after %.40q does not get further", path, query.Get("cursor"))
		}
		query.Set("cursor", p.Next)
	}
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var v T
	err := c.do(ctx, call{method: http.MethodGet, path: path}, &v)
	return v, err
}

func post[T any](ctx context.Context, c *Client, path string, body any) (T, error) {
	var v T
	err := c.do(ctx, call{method: http.MethodPost, path: path, body: body}, &v)
	return v, err
}

// Server tells who answers and as whom it knows the caller.
func (c *Client) Server(ctx context.Context) (api.Server, error) {
	return get[api.Server](ctx, c, api.PathServer)
}

// Watch calls each with every transition from now on (what was before is never sent: list the nodes once ready is called), until ctx ends, the server closes the stream or each returns an error.
// ready, when not nil, is called once the server is streaming.
func (c *Client) Watch(ctx context.Context, ready func(), each func(api.Transition) error) error {
	body, err := c.send(ctx, call{method: http.MethodGet, path: api.PathWatch})
	if err != nil {
		return err
	}
	defer body.Close()
	if ready != nil {
		ready()
	}
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxEventBytes)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var t api.Transition
		if err := json.Unmarshal([]byte(data), &t); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		if err := each(t); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	return nil
}

func nodePath(id attest.AgentID, more ...string) string {
	return api.PathNodes + "/" + url.PathEscape(string(id)) + strings.Join(append([]string{""}, more...), "/")
}

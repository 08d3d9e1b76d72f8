package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// answering is a cluster whose API server answers as the table says: a body by path, 404 for the rest, 500 for a body that begins with "error".
func answering(t *testing.T, bodies map[string]string) *Cluster {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, known := bodies[r.URL.Path]
		switch {
		case !known:
			w.WriteHeader(http.StatusNotFound)
		case strings.HasPrefix(body, "error"):
			w.WriteHeader(http.StatusInternalServerError)
		}
		io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}
	return &Cluster{spec: spec{Number: "7"}, client: &http.Client{Transport: &http.Transport{DialTLSContext: dial}}}
}

// node is the status of a Node whose condition Ready has that value.
func node(ready string) string {
	return fmt.Sprintf(`{"metadata":{"uid":"u-1"},"status":{"conditions":[{"type":"DiskPressure","status":"False"},{"type":"Ready","status":%q,"message":"because"}]}}`, ready)
}

func TestGet(t *testing.T) {
	c := answering(t, map[string]string{"/good": node("True"), "/ill": "error: etcdserver: leader changed\n", "/text": "<html>"})
	var got nodeStatus
	if err := c.Get(t.Context(), "/good", &got); err != nil || got.Metadata.UID != "u-1" {
		t.Errorf("%+v, %v", got, err)
	}
	if err := c.Get(t.Context(), "/text", nil); err != nil {
		t.Errorf("an answer that nobody reads: %v", err)
	}
	for path, want := range map[string]string{
		"/nobody": "get /nobody: not found", "/ill": "get /ill: 500 Internal Server Error: error: etcdserver: leader changed", "/text": "get /text: invalid character '<'",
	} {
		err := c.Get(t.Context(), path, &got)
		if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, ErrNotFound) != (path == "/nobody") {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

func TestReady(t *testing.T) {
	const nodes = "/api/v1/nodes/"
	c := answering(t, map[string]string{nodes + "well": node("True"), nodes + "ill": node("Unknown"), nodes + "new": `{"status":{}}`})
	for name, want := range map[string]string{"well": "", "ill": "node ill: not Ready: because", "new": "node new: not Ready", "missing": "not found"} {
		n := &Node{cluster: c, spec: nodeEntry{Name: name}}
		err := n.Ready(t.Context())
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		if is := errors.Is(err, ErrNotReady); is != strings.Contains(want, "not Ready") {
			t.Errorf("%s: ErrNotReady is %v of %v", name, is, err)
		}
		waited := n.WaitReady(t.Context(), 100*time.Millisecond)
		if (waited == nil) != (err == nil) || waited != nil && (!errors.Is(waited, context.DeadlineExceeded) || !strings.Contains(waited.Error(), want)) {
			t.Errorf("waiting for %s: %v", name, waited)
		}
	}
}

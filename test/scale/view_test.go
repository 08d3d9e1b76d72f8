package scale

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/client"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/kube/nodes"
)

// operates is a client with the operator's certificate that counts its requests, but for the one that watches.
func (s *server) operates(t testing.TB) (*client.Client, *counting) {
	t.Helper()
	pair, err := tls.X509KeyPair(s.operator["tls.crt"], s.operator["tls.key"])
	if err != nil {
		t.Fatal(err)
	}
	config, err := mtls.Peer{Host: "127.0.0.1", Certificate: mtls.Fixed(&pair)}.TrustCA(s.operator["ca.crt"])
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{URL: "https://" + s.address, TLS: config})
	if err != nil {
		t.Fatal(err)
	}
	return c, s.count
}

// bind enrols machines and answers their claims, without a cluster.
func (s *server) bind(t testing.TB, f *fleet, operator *client.Client) {
	t.Helper()
	added, err := s.admin.AddPolicy(t.Context(), document(), "")
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range f.machines {
		if err := f.claim(s.api, m, "header.body.signature"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.admin.Enrol(t.Context(), api.EnrolRequest{ID: m.id, Policies: []string{added.Digest.String()}, FirstUse: true}); err != nil {
			t.Fatal(err)
		}
		waiting, err := operator.Claims(t.Context())
		if err != nil || len(waiting) != 1 {
			t.Fatalf("%d claims wait: %v", len(waiting), err)
		}
		uid := fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
		if err := operator.AnswerClaim(t.Context(), waiting[0].ID, api.ClaimAnswer{Accepted: true, Node: &api.KubernetesNode{Name: m.node, UID: uid}}); err != nil {
			t.Fatal(err)
		}
	}
}

// counting counts requests by path.
type counting struct {
	next     http.Handler
	requests atomic.Int64
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != api.PathWatch {
		c.requests.Add(1)
	}
	c.next.ServeHTTP(w, r)
}

// seen collects the names that a View tells.
type seen struct {
	mu    sync.Mutex
	names map[string]bool
}

func (s *seen) changed(names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		s.names[name] = true
	}
}

func (s *seen) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.names)
}

func (s *seen) all(f *fleet) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range f.machines {
		if !s.names[m.node] {
			return false
		}
	}
	return true
}

// TestView: a view connects soon although it reads seldom, hears of a burst of transitions at once, and reads many machines together.
func TestView(t *testing.T) {
	const machines = 300
	f := newFleet(t, machines)
	s := startServer(t, f, time.Second)
	operator, count := s.operates(t)
	s.bind(t, f, operator)

	var tries atomic.Int32
	told := &seen{names: map[string]bool{}}
	view := nodes.NewView(nodes.ViewConfig{Interval: time.Hour, Changed: told.changed, Connect: func() (nodes.Server, error) {
		if tries.Add(1) < 5 {
			return nil, nodes.ErrNotConnected
		}
		return operator, nil
	}})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- view.Start(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	until(t, "the server is heard, and all machines are", func() bool {
		ok, _ := view.Connected()
		return ok && told.all(f)
	})
	until(t, "all are trusted", func() bool { return s.all(t, "Trusted", machines) })
	time.Sleep(time.Second) // what was told of that is read

	told.forget()
	before := count.requests.Load()
	for _, m := range f.machines {
		m.run(intruderFile)
	}
	until(t, "the view tells of every machine", func() bool { return told.all(f) })
	// Two for each would be 600: on a busy machine transitions come in smaller bursts, and still far from one by one. Those of the test itself are none.
	if n := count.requests.Load() - before; n > machines*3/2 {
		t.Errorf("%d requests for %d transitions", n, machines)
	}
}

func (s *server) all(t testing.TB, verdict string, want int) bool {
	t.Helper()
	list, err := s.admin.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, node := range list {
		if string(node.Verdict) == verdict {
			n++
		}
	}
	return n == want
}

func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("not within a minute: %s", what)
}

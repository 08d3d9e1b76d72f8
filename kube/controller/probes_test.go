package controller

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
)

// probe asks as the kubelet does.
func probe(t *testing.T, address, path string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// TestProbes: an operator that waits lives and is not ready, says for what it waits, and frees the address.
func TestProbes(t *testing.T) {
	p, err := answerProbes("127.0.0.1:0", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if code, _ := probe(t, p.address, "/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d", code)
	}
	if code, _ := probe(t, p.address, "/metrics"); code != http.StatusNotFound {
		t.Errorf("/metrics: %d", code)
	}
	for _, reason := range []string{"the operator starts", "may not watch nodes"} {
		if code, text := probe(t, p.address, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(text, reason) {
			t.Errorf("/readyz: %d %q, want %q", code, text, reason)
		}
		p.waitsFor("may not watch nodes")
	}

	if _, err := answerProbes(p.address, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), p.address) {
		t.Errorf("an address that is in use: %v", err)
	}
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	again, err := net.Listen("tcp", p.address)
	if err != nil {
		t.Fatalf("closed, and the address is not free: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// TestNoProbes: "0" is nowhere, as for the manager.
func TestNoProbes(t *testing.T) {
	p, err := answerProbes("0", slog.New(slog.DiscardHandler))
	if p != nil || err != nil {
		t.Fatalf("%v, %v", p, err)
	}
	p.waitsFor("x")
	if err := p.close(); err != nil {
		t.Error(err)
	}
}

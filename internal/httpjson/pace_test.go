package httpjson

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// paced serves what reads a body, then goes on for as long as the pace would have let the body take, and answers.
func paced(t *testing.T, p Pace, protocol string) (server *httptest.Server, result <-chan error) {
	t.Helper()
	results := make(chan error, 1)
	handler := func(w http.ResponseWriter, r *http.Request) {
		if r.Proto != protocol {
			t.Errorf("%s was asked for by %s", protocol, r.Proto)
		}
		_, err := io.Copy(io.Discard, r.Body)
		if err == nil {
			select {
			case <-r.Context().Done():
				err = r.Context().Err()
			case <-time.After(2 * p.Grace):
			}
		}
		results <- err
		if status, ok := StatusOf(err); ok {
			w.WriteHeader(status)
		}
	}
	server = httptest.NewUnstartedServer(p.Handler(http.HandlerFunc(handler)))
	server.EnableHTTP2 = protocol == "HTTP/2.0"
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, results
}

// post sends a body in parts, with a pause after each.
func post(t *testing.T, server *httptest.Server, parts int, pause time.Duration) int {
	t.Helper()
	reader, writer := io.Pipe()
	go func() {
		for range parts {
			if _, err := writer.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(pause)
		}
		writer.Close()
	}()
	answer, err := server.Client().Post(server.URL, "text/plain", reader)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	return answer.StatusCode
}

func TestPace(t *testing.T) {
	pace := Pace{Grace: 300 * time.Millisecond, BytesPerSecond: 100}
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			server, result := paced(t, pace, protocol)
			for range 2 { // a connection that is used again begins afresh
				if status := post(t, server, 10, 10*time.Millisecond); status != http.StatusOK {
					t.Errorf("a body in time: status %d", status)
				}
				if err := <-result; err != nil {
					t.Errorf("a body in time: %v", err)
				}
			}
			began := time.Now()
			status := post(t, server, 1000, 50*time.Millisecond)
			if err := <-result; !errors.Is(err, ErrTooSlow) || status != http.StatusRequestTimeout || !strings.Contains(err.Error(), "bytes in") {
				t.Errorf("a slow body: status %d, %v", status, err)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("a slow body held its connection for %v", took)
			}
		})
	}
}

// Who asks without a body may listen for as long as he likes.
func TestPaceLeavesStreams(t *testing.T) {
	server, result := paced(t, Pace{Grace: 50 * time.Millisecond, BytesPerSecond: 1}, "HTTP/1.1")
	answer, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := <-result; err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("status %d, %v", answer.StatusCode, err)
	}
}

func TestPaceWithoutConnection(t *testing.T) {
	var read []byte
	handler := Pace{Grace: time.Second, BytesPerSecond: 1}.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { read, _ = io.ReadAll(r.Body) }))
	handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/", strings.NewReader("text")))
	if string(read) != "text" {
		t.Errorf("read %q", read)
	}
}

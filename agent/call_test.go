package agent

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// answering is a server that answers everything in one way, and what it was asked last.
func answering(t *testing.T, code int, body string, headers ...string) (caller, *http.Request) {
	t.Helper()
	var last http.Request
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		last = *r
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
		if _, err := w.Write([]byte(body)); err != nil {
			t.Log(err) // the client may hang up on a body that is too long
		}
	}))
	t.Cleanup(server.Close)
	return caller{base: server.URL, client: newHTTPClient(&http.Transport{})}, &last
}

func TestCall(t *testing.T) {
	server, last := answering(t, 200, `{"a":1,"unknown":2}`)
	var answer struct{ A int }
	if err := server.call(t.Context(), request{method: "POST", path: "/x", token: "T", body: map[string]int{"b": 2}}, &answer); err != nil {
		t.Fatal(err)
	}
	if answer.A != 1 {
		t.Errorf("answer %+v", answer)
	}
	got := []string{last.Method, last.URL.Path, last.Header.Get("Content-Type"), last.Header.Get("Authorization")}
	if diff := cmp.Diff([]string{"POST", "/x", "application/json", "Bearer T"}, got); diff != "" {
		t.Error(diff)
	}
	// Keylime answers 400 to a GET that names a content type and has no body.
	if err := server.call(t.Context(), request{method: "GET", path: "/y"}, nil); err != nil {
		t.Fatal(err)
	}
	if kind := last.Header.Get("Content-Type"); kind != "" {
		t.Errorf("a GET says Content-Type %q", kind)
	}
}

func TestCallRefusals(t *testing.T) {
	for _, row := range []struct {
		name string
		code int
		body string
		want string
		head []string
	}{
		{"Keylime's words", 403, `{"code":403,"status":"another TPM","results":{}}`, "403: another TPM", nil},
		{"the native API's words", 404, `{"status":404,"title":"Not Found","detail":"unknown agent"}`, "404: unknown agent", nil},
		{"no words", 500, "", "500 Internal Server Error", nil},
		{"no JSON", 502, "<html>", "502: <html>", nil},
		{"redirect", 302, "", "302 Found", []string{"Location", "https://elsewhere.example/"}},
		{"too long", 200, `"` + strings.Repeat("a", maxAnswerBytes) + `"`, "too large", nil},
		{"no JSON answer", 200, "<html>", "malformed JSON", nil},
		{"duplicate key", 200, `{"a":1,"a":2}`, "duplicate key", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			server, _ := answering(t, row.code, row.body, row.head...)
			var answer any
			err := server.call(t.Context(), request{method: "GET", path: "/x"}, &answer)
			if err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), server.base) {
				t.Errorf("error %v, want %q and the address", err, row.want)
			}
			if row.code/100 != 2 && statusOf(err) != row.code {
				t.Errorf("status %d, want %d", statusOf(err), row.code)
			}
		})
	}
}

func TestExplanationIsCut(t *testing.T) {
	text := explanation([]byte(strings.Repeat("ä", 1000)))
	if len(text) > 400 || !strings.HasSuffix(text, "...") {
		t.Errorf("explanation of %d bytes", len(text))
	}
}

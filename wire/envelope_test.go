package wire

import (
	"net/http/httptest"
	"testing"
)

func TestAnswers(t *testing.T) {
	w := httptest.NewRecorder()
	WriteResults(w, AgentList{UUIDs: []string{"c0ffee00-1111-4222-8333-444455556666"}})
	want := captured(t, "registrar.json", "list")
	sameJSON(t, want.Response, w.Body.String())
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("got %d %v", w.Code, w.Header())
	}

	w = httptest.NewRecorder()
	WriteStatus(w, 404, "Agent with ID 'nope' not found")
	sameJSON(t, captured(t, "registrar.json", "show unknown").Response, w.Body.String())
	if w.Code != 404 {
		t.Errorf("got %d", w.Code)
	}

	w = httptest.NewRecorder()
	WriteError(w, 401, "Invalid authentication token")
	sameJSON(t, captured(t, "registrar.json", "show bearer").Response, w.Body.String())
	if w.Code != 401 {
		t.Errorf("got %d", w.Code)
	}

	w = httptest.NewRecorder()
	WriteResults(w, func() {})
	if w.Code != 500 || w.Body.Len() != 0 {
		t.Errorf("results without JSON form: got %d %q", w.Code, w.Body)
	}
}

func TestRequestID(t *testing.T) {
	for header, want := range map[string]string{
		"":                                     "",
		"ukku27":                               "ukku27",
		"1f0c6b9e-7d0a-4f0e-8a57-2f1d9f3b0c11": "1f0c6b9e7d0a4f0e8a572f1d9f3b0c11",
		"a\r\nSet-Cookie: b=c":                 "aSetCookiebc",
		"é_0123456789012345678901234567890123456789": "_01234567890123456789012345678901234",
	} {
		if got := RequestID(header); got != want {
			t.Errorf("%q: got %q", header, got)
		}
	}
}

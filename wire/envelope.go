package wire

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// Success is the status text of every answer that is no refusal.
const Success = "Success"

// Envelope is the body of every answer of versions 1 and 2.
type Envelope[T any] struct {
	Code    int    `json:"code"`
	Status  string `json:"status"`
	Results T      `json:"results"`
}

// Empty is the results of an answer that has none: {}.
type Empty struct{}

// WriteResults answers 200 with results.
func WriteResults(w http.ResponseWriter, results any) {
	write(w, http.StatusOK, Envelope[any]{http.StatusOK, Success, results})
}

// WriteStatus answers with a status and a text, without results.
func WriteStatus(w http.ResponseWriter, code int, text string) {
	write(w, code, Envelope[Empty]{Code: code, Status: text})
}

// ErrorsBody is how the reference refuses a caller, before it looks at the request.
type ErrorsBody struct {
	Errors []ErrorObject `json:"errors"`
}

// ErrorObject is one reason; Status is the HTTP status in digits, Title its text.
type ErrorObject struct {
	Status string `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

// WriteError answers with an errors object.
func WriteError(w http.ResponseWriter, code int, detail string) {
	write(w, code, ErrorsBody{[]ErrorObject{{strconv.Itoa(code), http.StatusText(code), detail}}})
}

// write sends JSON. What it is given are this package's own types, so that encoding fails only for results that a caller made up.
func write(w http.ResponseWriter, code int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(text) // the peer may be gone: nobody to tell
}

// RequestID returns what an X-Request-ID header is echoed as: its letters, digits and underscores, at most 36 of them.
func RequestID(header string) string {
	var kept []byte
	for i := 0; i < len(header) && len(kept) < 36; i++ {
		if c := header[i]; c == '_' || isDigit(c) || c|0x20 >= 'a' && c|0x20 <= 'z' {
			kept = append(kept, c)
		}
	}
	return string(kept)
}

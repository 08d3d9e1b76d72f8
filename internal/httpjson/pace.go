package httpjson

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// ErrTooSlow: the body came slower than the Pace.
var ErrTooSlow = errors.New("body too slow")

// Pace is how fast bodies have to come: N bytes of one may take Grace and N / BytesPerSecond. Both must be above 0.
type Pace struct {
	Grace          time.Duration
	BytesPerSecond int64
}

// Handler lets a handler wait for bodies that keep the pace, so that nobody holds a connection by sending a byte now and then; Read fails with ErrTooSlow.
// Requests without a body, such as those of streams, have no deadline, nor has anything after the end of a body.
func (p Pace) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil && r.Body != http.NoBody {
			paced := &pacedBody{ReadCloser: r.Body, pace: p, connection: http.NewResponseController(w), began: time.Now()}
			paced.extend()
			r.Body = paced
		}
		next.ServeHTTP(w, r)
	})
}

// pacedBody moves the connection's read deadline on with what it has read.
type pacedBody struct {
	io.ReadCloser
	pace       Pace
	connection *http.ResponseController
	began      time.Time
	read       int64
}

func (b *pacedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, fmt.Errorf("%w: %d bytes in %v", ErrTooSlow, b.read, time.Since(b.began).Round(time.Millisecond))
	case err != nil:
		// net/http goes on reading to notice that the caller is gone: a deadline would look like that.
		_ = b.connection.SetReadDeadline(time.Time{})
	default:
		b.extend()
	}
	return n, err
}

// extend sets the deadline. A ResponseWriter that cannot have one has no connection that could be held.
func (b *pacedBody) extend() {
	allowed := b.pace.Grace + time.Duration(float64(b.read)/float64(b.pace.BytesPerSecond)*float64(time.Second))
	_ = b.connection.SetReadDeadline(b.began.Add(allowed))
}

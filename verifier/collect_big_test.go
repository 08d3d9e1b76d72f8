package verifier

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/wire"
)

// Answers beyond the free bytes need a place. Without one they are silence when the round's time is over; small ones need none.
func TestBigAnswersWaitForAPlace(t *testing.T) {
	a, p := newPullAgent(t), newPull(t)
	entries := ""
	a.mu.Lock()
	a.quote = func(w http.ResponseWriter, _ *http.Request) {
		results := goodResults()
		results.ImaMeasurementList = &entries
		wire.WriteResults(w, results)
	}
	a.mu.Unlock()
	for range bigAnswers {
		p.big <- struct{}{}
	}
	if _, err := p.Collect(t.Context(), a.to, pullRequest); err != nil {
		t.Fatalf("a small answer: %v", err)
	}
	entries = strings.Repeat("10 ab ima-ng\n", freeAnswerBytes/10)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := p.Collect(ctx, a.to, pullRequest)
	if err == nil || errors.Is(err, ErrMalformed) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a big one without a place: %v, want silence", err)
	}
	done := make(chan error, 1)
	go func() {
		answer, err := p.Collect(t.Context(), a.to, pullRequest)
		if err == nil && string(answer.List) != entries {
			err = errors.New("another list")
		}
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("answered without a place: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	<-p.big
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(p.big) != bigAnswers-1 {
		t.Errorf("%d places are taken, want %d: the answer kept its own", len(p.big), bigAnswers-1)
	}
}

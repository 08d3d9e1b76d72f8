package pull

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/verifier"
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
	if err == nil || errors.Is(err, verifier.ErrMalformed) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a big one without a place: %v, want silence", err)
	}
	done := make(chan error, 1)
	go func() {
		answer, err := p.Collect(t.Context(), a.to, pullRequest)
		if err == nil && string(answer.List) != entries {
			err = errors.New("another list")
		}
		if err == nil && len(p.big) != bigAnswers {
			err = errors.New("it gave its place back before it was judged")
		}
		if answer.Release != nil { // nil with an error
			answer.Release()
			answer.Release() // gives back no place of another
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

// An answer that trickles loses its place: the agent's round ends in silence long before its nonce does.
func TestBigAnswersThatTrickle(t *testing.T) {
	t.Run("a byte now and then", func(t *testing.T) { slowAnswer(t, true) })
	t.Run("nothing any more", func(t *testing.T) { slowAnswer(t, false) })
}

func slowAnswer(t *testing.T, trickles bool) {
	a, p := newPullAgent(t), newPull(t)
	p.grace = 300 * time.Millisecond
	a.mu.Lock()
	a.quote = func(w http.ResponseWriter, r *http.Request) {
		if _, err := w.Write([]byte(`{"code":200,"status":"Success","results":{"x":"` + strings.Repeat("a", freeAnswerBytes))); err != nil {
			return
		}
		if !trickles && http.NewResponseController(w).Flush() == nil {
			<-r.Context().Done()
		}
		for r.Context().Err() == nil {
			if _, err := w.Write([]byte("a")); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	a.mu.Unlock()
	began := time.Now()
	_, err := p.Collect(t.Context(), a.to, pullRequest)
	if took := time.Since(began); err == nil || errors.Is(err, verifier.ErrMalformed) || took > 10*time.Second {
		t.Errorf("after %v: %v, want silence", took, err)
	}
	if len(p.big) != 0 {
		t.Error("it kept its place")
	}
}

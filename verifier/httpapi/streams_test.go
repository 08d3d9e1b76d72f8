package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/mtls"
)

// One client has so many streams and no more, whoever else watches; one that ends makes room.
func TestStreamsPerClientAreBounded(t *testing.T) {
	s := newSite(t)
	viewer, admin := s.as(mtls.Viewer), s.as(mtls.Administrator)
	open := func(client *http.Client) (*http.Response, context.CancelFunc) {
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		request, err := http.NewRequestWithContext(ctx, "GET", s.url+api.PathWatch, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { answer.Body.Close() })
		return answer, cancel
	}
	var end context.CancelFunc
	for range maxStreams {
		var answer *http.Response
		if answer, end = open(viewer); answer.StatusCode != http.StatusOK {
			t.Fatalf("stream: %s", answer.Status)
		}
	}
	refused, _ := open(viewer)
	text, err := io.ReadAll(refused.Body)
	if err != nil || refused.StatusCode != http.StatusTooManyRequests || !strings.Contains(string(text), "some viewer (viewer) has 32 open already") {
		t.Errorf("one more: %s %s, %v", refused.Status, text, err)
	}
	if answer, _ := open(admin); answer.StatusCode != http.StatusOK {
		t.Errorf("another client: %s", answer.Status)
	}
	end()
	s.eventually("room for a stream", func() bool {
		answer, _ := open(viewer)
		return answer.StatusCode == http.StatusOK
	})
}

func TestStreamsAreForgotten(t *testing.T) {
	s := &streams{open: map[caller]int{}}
	leave, err := s.enter(caller{name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	leave()
	if len(s.open) != 0 {
		t.Errorf("%v is kept of a client without streams", s.open)
	}
	for range maxStreams {
		if _, err := s.enter(caller{name: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.enter(caller{name: "a"}); !errors.Is(err, errTooManyStreams) {
		t.Errorf("one more: %v", err)
	}
}

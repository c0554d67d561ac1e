package ackgate

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// intake answers with a status that may be changed at any time.
func intake(t *testing.T) (*httptest.Server, *atomic.Int32) {
	t.Helper()
	status := new(atomic.Int32)
	status.Store(http.StatusNotFound)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(status.Load()))
	}))
	t.Cleanup(server.Close)
	return server, status
}

func gateTo(endpoint string, retains bool) *gate {
	return &gate{
		asks: true, endpoint: endpoint, retains: retains,
		client: &http.Client{Timeout: 200 * time.Millisecond}, stopping: make(chan struct{}),
	}
}

func TestNothingPassesWhileTheIntakeIsAway(t *testing.T) {
	server, status := intake(t)
	for _, away := range []int32{429, 500, 503} {
		status.Store(away)
		passed := false
		err := gateTo(server.URL, false).pass(context.Background(), func(context.Context) error { passed = true; return nil })
		if err == nil || passed {
			t.Errorf("%d: %v, passed %v", away, err, passed)
		}
	}
	server.Close()
	if err := gateTo(server.URL, false).pass(context.Background(), nil); err == nil {
		t.Error("the connection was refused, and there is no error")
	}
}

func TestAnIntakeThatNeverAnswersIsAway(t *testing.T) {
	released := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-released }))
	defer server.Close()
	defer close(released)
	if err := gateTo(server.URL, false).pass(context.Background(), nil); err == nil {
		t.Error("no error")
	}
}

func TestWhatTheExporterRefusesIsNotDelivered(t *testing.T) {
	server, _ := intake(t)
	refused := errors.New("refused")
	err := gateTo(server.URL, false).pass(context.Background(), func(context.Context) error { return refused })
	if !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
}

func TestWhatMayHaveBeenDroppedIsSentAgain(t *testing.T) {
	server, status := intake(t)
	g := gateTo(server.URL, false)
	err := g.pass(context.Background(), func(context.Context) error {
		status.Store(503)
		g.seenUp = time.Time{}
		return nil
	})
	if err == nil {
		t.Error("the intake went away before it can have been delivered, and no error")
	}
}

func TestWhatTheExporterRetainsIsWaitedFor(t *testing.T) {
	server, status := intake(t)
	g := gateTo(server.URL, true)
	done := make(chan error)
	go func() {
		done <- g.pass(context.Background(), func(context.Context) error {
			status.Store(503)
			g.seenUp = time.Time{}
			return nil
		})
	}()
	select {
	case err := <-done:
		t.Fatalf("counted as delivered while the intake is unavailable: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	status.Store(202)
	if err := <-done; err != nil {
		t.Errorf("got %v", err)
	}
}

func TestAStopEndsTheWait(t *testing.T) {
	server, status := intake(t)
	g := gateTo(server.URL, true)
	close(g.stopping)
	err := g.pass(context.Background(), func(context.Context) error {
		status.Store(503)
		g.seenUp = time.Time{}
		return nil
	})
	if !errors.Is(err, errClosed) {
		t.Errorf("got %v", err)
	}
}

func TestAnEmptyEndpointIsTheIntakeOfTheSite(t *testing.T) {
	for _, test := range []struct{ site, endpoint, want string }{
		{"", "", "https://api.datadoghq.com"},
		{"datadoghq.eu", "", "https://api.datadoghq.eu"},
		{"datadoghq.eu", "http://proxy:3834", "http://proxy:3834"},
		{"datadoghq.eu", "agent-http-intake.logs.datadoghq.eu:443", "https://agent-http-intake.logs.datadoghq.eu:443"},
	} {
		c := &Config{Site: test.site}
		if got := c.endpoint(Way{Endpoint: test.endpoint}, metricsIntake); got != test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
}

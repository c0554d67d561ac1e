package ackgate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// gate passes data to an exporter that acknowledges it before it has delivered it.
type gate struct {
	asks     bool
	endpoint string
	dwell    time.Duration
	retains  bool
	client   *http.Client
	stopping chan struct{}

	mutex  sync.Mutex
	seenUp time.Time
	// The last failure: those that wait for the lock need not ask in their turn.
	failure error
	failed  time.Time
}

// How long a response of the intake is valid, and how often an unavailable one is polled.
const (
	fresh = time.Second
	pause = time.Second
)

var errClosed = errors.New("the collector is stopping")

// pass hands data on and returns when the exporter has delivered it, as far as is visible from
// outside. An error means: not known to be delivered, try again.
func (g *gate) pass(ctx context.Context, consume func(context.Context) error) error {
	if !g.asks {
		return consume(ctx)
	}
	if err := g.ask(ctx); err != nil {
		return err
	}
	if err := consume(ctx); err != nil {
		return err
	}
	for {
		// What is handed on is delivered within this time; when the collector stops as well, for then
		// the exporter delivers what it has.
		time.Sleep(g.dwell)
		err := g.ask(ctx)
		if err == nil || !g.retains {
			return err
		}
		// The exporter keeps it and tries again by itself: to send it once more would double it. It stays
		// in the queue on disk, in case this process is killed.
		for err != nil {
			select {
			case <-g.stopping:
				return errClosed
			case <-time.After(pause):
			}
			err = g.ask(ctx)
		}
	}
}

// ask returns an error if the intake is unavailable: it does not answer, or answers 429 or 5xx.
func (g *gate) ask(ctx context.Context) error {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if time.Since(g.seenUp) < fresh {
		return nil
	}
	if g.failure != nil && time.Since(g.failed) < fresh {
		return g.failure
	}
	g.failure = g.request(ctx)
	if g.failure != nil {
		g.failed = time.Now()
		return g.failure
	}
	g.seenUp = time.Now()
	return nil
}

func (g *gate) request(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, g.endpoint, nil)
	if err != nil {
		return err
	}
	answer, err := g.client.Do(request)
	if err != nil {
		return fmt.Errorf("the intake is unavailable: %w", err)
	}
	_ = answer.Body.Close()
	// Any other answer, a 404 too, comes from an intake that is there.
	if answer.StatusCode >= http.StatusInternalServerError || answer.StatusCode == http.StatusTooManyRequests {
		return fmt.Errorf("the intake is unavailable: %s", answer.Status)
	}
	return nil
}

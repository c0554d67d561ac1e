package delivery

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.uber.org/zap"
	"otel-metaflow.local/delivery/relay"
)

// server accepts requests from an exporter of this process that supports no middleware, and delivers them.
type server struct {
	transport *transport
	intake    string
}

func newServer(c *transport) *server {
	return &server{transport: c, intake: strings.TrimRight(c.config.Relay.Intake, "/")}
}

// Start takes over what comes to the listener that the converter opened.
func (s *server) Start(context.Context, component.Host) error {
	listener := relay.At(s.transport.config.Relay.Listen)
	if listener == nil {
		return fmt.Errorf("relay::listen is %q: leave it to the collector", s.transport.config.Relay.Listen)
	}
	listener.Serve(s)
	return nil
}

// Shutdown is called when the exporters have ended.
func (s *server) Shutdown(ctx context.Context) error {
	if listener := relay.At(s.transport.config.Relay.Listen); listener != nil {
		return listener.Close(ctx)
	}
	return nil
}

// ServeHTTP answers 202 to what was accepted or dropped as rejected, 400 to a permanent failure, and otherwise what is retried.
func (s *server) ServeHTTP(w http.ResponseWriter, incoming *http.Request) {
	body, err := plain(incoming)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	request, err := http.NewRequestWithContext(incoming.Context(), incoming.Method, s.intake+incoming.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	request.Header = incoming.Header.Clone()
	for _, name := range []string{"Connection", "Content-Length", "Content-Encoding", "Accept-Encoding"} {
		request.Header.Del(name)
	}
	answer, err := s.transport.RoundTrip(request)
	switch {
	case consumererror.IsPermanent(err):
		w.WriteHeader(http.StatusBadRequest)
	case err != nil:
		s.transport.logger.Debug("not delivered yet", zap.Error(err))
		w.WriteHeader(http.StatusServiceUnavailable)
	case incoming.Method == http.MethodPost && taken(answer):
		_ = answer.Body.Close()
		w.WriteHeader(http.StatusAccepted)
	default:
		// An answer with Retry-After, or to a request other than a delivery: the exporter validates its key.
		defer answer.Body.Close()
		for _, name := range []string{"Content-Type", "Retry-After"} {
			if value := answer.Header.Get(name); value != "" {
				w.Header().Set(name, value)
			}
		}
		w.WriteHeader(answer.StatusCode)
		_, _ = io.Copy(w, answer.Body)
	}
}

func plain(request *http.Request) ([]byte, error) {
	defer request.Body.Close()
	if !strings.EqualFold(request.Header.Get("Content-Encoding"), "gzip") {
		return io.ReadAll(request.Body)
	}
	reader, err := gzip.NewReader(request.Body)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(reader)
}

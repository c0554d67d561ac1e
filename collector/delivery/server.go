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

// server takes requests of an exporter of this process that takes no middleware, and delivers them.
type server struct {
	courier *courier
	intake  string
}

func newServer(c *courier) *server {
	return &server{courier: c, intake: strings.TrimRight(c.config.Relay.Intake, "/")}
}

// Start takes over what comes to the door that the converter opened.
func (s *server) Start(context.Context, component.Host) error {
	door := relay.At(s.courier.config.Relay.Listen)
	if door == nil {
		return fmt.Errorf("relay::listen is %q: leave it to the collector", s.courier.config.Relay.Listen)
	}
	door.Serve(s)
	return nil
}

// Shutdown is called when the exporters have ended.
func (s *server) Shutdown(ctx context.Context) error {
	if door := relay.At(s.courier.config.Relay.Listen); door != nil {
		return door.Close(ctx)
	}
	return nil
}

// ServeHTTP answers 202 to what was taken or given up, 400 to what is final, and else what is tried again for.
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
	answer, err := s.courier.RoundTrip(request)
	switch {
	case consumererror.IsPermanent(err):
		w.WriteHeader(http.StatusBadRequest)
	case err != nil:
		s.courier.logger.Debug("not delivered yet", zap.Error(err))
		w.WriteHeader(http.StatusServiceUnavailable)
	case incoming.Method == http.MethodPost && taken(answer):
		_ = answer.Body.Close()
		w.WriteHeader(http.StatusAccepted)
	default:
		// What says when to try again, and what is no delivery: the exporter has its key validated.
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

// Package delivery is HTTP client middleware that limits the loss from a rejected request to the rejected records.
//
// An exporter treats the answer to a request as the answer to a whole batch. So one record that names an index the
// token may not use loses everybody's batch, and a permanent answer, such as the 413 of a proxy, is retried for
// ever while everything else is queued behind it. This middleware sits between exporter and network. It limits the
// size of requests, splits rejected ones until the offending records are isolated, drops, counts and logs those, and
// marks for the exporter which failures are permanent.
//
//	extensions:
//	  metaflow_delivery/splunk:
//	    destination: Splunk
//	    format: hec                # or otlp
//	    max_content_length: 1000000
//	exporters:
//	  splunk_hec:
//	    compression: none          # the middleware has to read what it divides, and compresses itself
//	    middlewares: [{id: metaflow_delivery/splunk}]
package delivery

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensionmiddleware"
	"go.opentelemetry.io/otel/metric"
)

// Config is what stands under the extension's id.
type Config struct {
	// Destination is what logs and metrics call the other end.
	Destination string `mapstructure:"destination"`
	// Format of a request's body: hec, otlp or datadog.
	Format string `mapstructure:"format"`
	// MaxContentLength is how many bytes a request may have before compression. A record that is larger by
	// itself is sent alone.
	MaxContentLength int `mapstructure:"max_content_length"`
	// Variable sets MaxContentLength, to be named where the setting is wrong or too large.
	Variable string `mapstructure:"variable"`
	// Timeout of one request.
	Timeout time.Duration `mapstructure:"timeout"`
	// Relay serves an exporter that supports no middleware; the converter in relay/ fills it in.
	Relay Relay `mapstructure:"relay"`
}

// Relay is where the extension listens, and the intake that it delivers to.
type Relay struct {
	Listen string `mapstructure:"listen"`
	Intake string `mapstructure:"intake"`
}

// Validate names what is wrong in one line.
func (c *Config) Validate() error {
	if _, known := formats[c.Format]; !known {
		return fmt.Errorf("format is %q: set it to hec, otlp or datadog", c.Format)
	}
	if c.MaxContentLength <= 0 {
		return fmt.Errorf("%s is %d: set it to a number of bytes above 0", c.Variable, c.MaxContentLength)
	}
	if c.Timeout <= 0 {
		return errors.New("timeout must be positive")
	}
	return nil
}

// NewFactory is what the collector's generated main.go calls.
func NewFactory() extension.Factory {
	return extension.NewFactory(
		component.MustNewType("metaflow_delivery"),
		func() component.Config {
			return &Config{MaxContentLength: 1_000_000, Variable: "max_content_length", Timeout: 10 * time.Second}
		},
		create,
		component.StabilityLevelBeta)
}

type middleware struct {
	component.StartFunc
	component.ShutdownFunc
	extensionmiddleware.HTTPClient
}

func create(_ context.Context, set extension.Settings, cfg component.Config) (extension.Extension, error) {
	c := cfg.(*Config)
	counter, err := set.MeterProvider.Meter("otel-metaflow.local/delivery").Int64Counter(
		"otelcol_metaflow_rejected_records",
		metric.WithDescription("Records, spans and metric points that a destination permanently rejected."),
		metric.WithUnit("{record}"))
	if err != nil {
		return nil, err
	}
	through := func(base http.RoundTripper) *transport {
		return &transport{config: c, format: formats[c.Format], next: base, logger: set.Logger, rejections: counter}
	}
	if c.Relay.Listen != "" {
		return newServer(through(http.DefaultTransport)), nil
	}
	wrap := func(base http.RoundTripper) (http.RoundTripper, error) { return through(base), nil }
	return middleware{HTTPClient: extensionmiddleware.GetHTTPRoundTripperFunc(wrap)}, nil
}

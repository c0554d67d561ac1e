// Package ackgate is a connector that keeps data in its queue on disk until the exporter behind it has delivered it.
//
// It precedes the Datadog exporter, which acknowledges data once it is in memory, not once Datadog has
// it: spans are dropped after four tries, and everything in memory is lost with the process
// (open-telemetry/opentelemetry-collector-contrib#44299). The gate probes the intake before it passes a batch,
// passes none while the intake is unavailable, and removes a batch from the queue only after the
// exporter has had the time to deliver it and the intake still answers.
package ackgate

import (
	"context"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configretry"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// Way is how one signal gets to its intake.
type Way struct {
	// Endpoint is the URL of the intake; Datadog's own of the site if it is empty.
	Endpoint string `mapstructure:"endpoint"`
	// Dwell is how long the exporter needs to deliver what it has accepted.
	Dwell time.Duration `mapstructure:"dwell"`
	// Retains: the exporter retries for ever what it has accepted.
	Retains bool `mapstructure:"retains"`
}

// Config is what stands under the connector's id.
type Config struct {
	// Asks: the intake is probed before and after each batch. Otherwise this is only a queue.
	Asks    bool                                                     `mapstructure:"asks"`
	Site    string                                                   `mapstructure:"site"`
	Logs    Way                                                      `mapstructure:"logs"`
	Traces  Way                                                      `mapstructure:"traces"`
	Metrics Way                                                      `mapstructure:"metrics"`
	Timeout time.Duration                                            `mapstructure:"timeout"`
	Queue   configoptional.Optional[exporterhelper.QueueBatchConfig] `mapstructure:"sending_queue"`
	Retry   configretry.BackOffConfig                                `mapstructure:"retry_on_failure"`
}

// Datadog's own addresses, to be followed by the site, and what is asked for there: a proxy may know
// nothing but the paths that the exporter uses.
const (
	logsPath    = "/api/v2/logs"
	tracesPath  = "/api/v0.2/traces"
	metricsPath = "/api/v1/validate"

	logsIntake    = "https://http-intake.logs."
	tracesIntake  = "https://trace.agent."
	metricsIntake = "https://api."
	defaultSite   = "datadoghq.com"
)

func (c *Config) endpoint(way Way, intake string) string {
	switch {
	case strings.Contains(way.Endpoint, "://"):
		return way.Endpoint
	case way.Endpoint != "":
		// host:port, which the exporter speaks TLS to.
		return "https://" + way.Endpoint
	}
	if c.Site == "" {
		return intake + defaultSite
	}
	return intake + c.Site
}

// NewFactory is what the collector's generated main.go calls.
func NewFactory() connector.Factory {
	return connector.NewFactory(
		component.MustNewType("metaflow_ack_gate"),
		func() component.Config {
			return &Config{
				Asks:    true,
				Timeout: 5 * time.Second,
				Queue:   configoptional.Some(exporterhelper.NewDefaultQueueConfig()),
				Retry:   configretry.NewDefaultBackOffConfig(),
			}
		},
		connector.WithLogsToLogs(logs, component.StabilityLevelBeta),
		connector.WithTracesToTraces(traces, component.StabilityLevelBeta),
		connector.WithMetricsToMetrics(metrics, component.StabilityLevelBeta))
}

func logs(ctx context.Context, set connector.Settings, cfg component.Config, next consumer.Logs) (connector.Logs, error) {
	g := newGate(cfg.(*Config), cfg.(*Config).Logs, logsIntake, logsPath)
	queue, err := exporterhelper.NewLogs(ctx, settings(set), cfg, func(ctx context.Context, data plog.Logs) error {
		return g.pass(ctx, func(ctx context.Context) error {
			// A copy: the consumer may change it, and it may be needed again.
			given := plog.NewLogs()
			data.CopyTo(given)
			return next.ConsumeLogs(ctx, given)
		})
	}, options(cfg.(*Config))...)
	return logsGate{queue, g}, err
}

func traces(ctx context.Context, set connector.Settings, cfg component.Config, next consumer.Traces) (connector.Traces, error) {
	g := newGate(cfg.(*Config), cfg.(*Config).Traces, tracesIntake, tracesPath)
	queue, err := exporterhelper.NewTraces(ctx, settings(set), cfg, func(ctx context.Context, data ptrace.Traces) error {
		return g.pass(ctx, func(ctx context.Context) error {
			given := ptrace.NewTraces()
			data.CopyTo(given)
			return next.ConsumeTraces(ctx, given)
		})
	}, options(cfg.(*Config))...)
	return tracesGate{queue, g}, err
}

func metrics(ctx context.Context, set connector.Settings, cfg component.Config, next consumer.Metrics) (connector.Metrics, error) {
	g := newGate(cfg.(*Config), cfg.(*Config).Metrics, metricsIntake, metricsPath)
	queue, err := exporterhelper.NewMetrics(ctx, settings(set), cfg, func(ctx context.Context, data pmetric.Metrics) error {
		return g.pass(ctx, func(ctx context.Context) error {
			given := pmetric.NewMetrics()
			data.CopyTo(given)
			return next.ConsumeMetrics(ctx, given)
		})
	}, options(cfg.(*Config))...)
	return metricsGate{queue, g}, err
}

type (
	logsGate struct {
		exporter.Logs
		*gate
	}
	tracesGate struct {
		exporter.Traces
		*gate
	}
	metricsGate struct {
		exporter.Metrics
		*gate
	}
)

// Shutdown ends the waits first, for which the queue's own end would wait.
func (g logsGate) Shutdown(ctx context.Context) error {
	close(g.stopping)
	return g.Logs.Shutdown(ctx)
}

func (g tracesGate) Shutdown(ctx context.Context) error {
	close(g.stopping)
	return g.Traces.Shutdown(ctx)
}

func (g metricsGate) Shutdown(ctx context.Context) error {
	close(g.stopping)
	return g.Metrics.Shutdown(ctx)
}

func newGate(c *Config, way Way, intake, path string) *gate {
	return &gate{
		asks:     c.Asks,
		endpoint: strings.TrimRight(c.endpoint(way, intake), "/") + path,
		dwell:    way.Dwell,
		retains:  way.Retains,
		client:   &http.Client{Timeout: c.Timeout},
		stopping: make(chan struct{}),
	}
}

func options(c *Config) []exporterhelper.Option {
	return []exporterhelper.Option{
		exporterhelper.WithQueue(c.Queue),
		exporterhelper.WithRetry(c.Retry),
		// A batch may have to wait for as long as an outage lasts.
		exporterhelper.WithTimeout(exporterhelper.TimeoutConfig{Timeout: 0}),
		exporterhelper.WithCapabilities(consumer.Capabilities{MutatesData: false}),
	}
}

func settings(set connector.Settings) exporter.Settings {
	return exporter.Settings{ID: set.ID, TelemetrySettings: set.TelemetrySettings, BuildInfo: set.BuildInfo}
}

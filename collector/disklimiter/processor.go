// Package disklimiter is a processor that refuses data before the queues' volume is full.
//
// It is for the disk what the memory_limiter is for memory. A queue that has no room left to write cannot note what
// it delivers either, and loses it; data that the receiver refuses is kept and resent by the sender. It
// belongs before the fork: a refusal behind it would double what the other destinations already have.
package disklimiter

import (
	"context"
	"errors"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.uber.org/zap"
)

// Config is what stands under the processor's id.
type Config struct {
	// Directory is where the queues are.
	Directory string `mapstructure:"directory"`
	// ReserveMiB is what stays free on its volume: an eighth of it if 0, at least 4 and at most 64.
	ReserveMiB int64 `mapstructure:"reserve_mib"`
	// LimitMiB is what the files in it may take together; as much as the volume has if 0.
	LimitMiB int64 `mapstructure:"limit_mib"`
	// Copies is how many times its size a record may take on disk, with as many queues as it is written to.
	Copies int64 `mapstructure:"copies"`
}

// Validate checks the configuration before the start.
func (c *Config) Validate() error {
	if c.Directory == "" {
		return errors.New("directory is empty: name the folder of the queues")
	}
	if c.ReserveMiB < 0 || c.LimitMiB < 0 || c.Copies < 1 {
		return errors.New("reserve_mib and limit_mib take 0 or more, copies 1 or more")
	}
	return nil
}

// NewFactory is what the collector's generated main.go calls.
func NewFactory() processor.Factory {
	return processor.NewFactory(
		component.MustNewType("disk_limiter"),
		func() component.Config { return &Config{Copies: 4} },
		processor.WithLogs(func(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Logs) (processor.Logs, error) {
			return logsLimiter{limiter: limiter{volume: volumeOf(cfg.(*Config), set.Logger)}, next: next}, nil
		}, component.StabilityLevelBeta),
		processor.WithTraces(func(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Traces) (processor.Traces, error) {
			return tracesLimiter{limiter: limiter{volume: volumeOf(cfg.(*Config), set.Logger)}, next: next}, nil
		}, component.StabilityLevelBeta),
		processor.WithMetrics(func(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Metrics) (processor.Metrics, error) {
			return metricsLimiter{limiter: limiter{volume: volumeOf(cfg.(*Config), set.Logger)}, next: next}, nil
		}, component.StabilityLevelBeta))
}

var (
	mutex   sync.Mutex
	volumes = map[Config]*volume{}
)

// volumeOf returns the volume that all pipelines of one configuration share.
func volumeOf(c *Config, logger *zap.Logger) *volume {
	mutex.Lock()
	defer mutex.Unlock()
	if found, ok := volumes[*c]; ok {
		return found
	}
	made := &volume{
		directory: c.Directory,
		reserve:   c.ReserveMiB * mebibyte,
		limit:     c.LimitMiB * mebibyte,
		copies:    c.Copies,
		report: func(refusing bool, why string) {
			if refusing {
				logger.Error("refusing telemetry, senders must keep it and retry: the queues are full: " + why)
			} else {
				logger.Info("accepting telemetry again: the queues have room")
			}
		},
	}
	volumes[*c] = made
	return made
}

type limiter struct {
	component.StartFunc
	component.ShutdownFunc
	volume *volume
}

func (limiter) Capabilities() consumer.Capabilities { return consumer.Capabilities{MutatesData: false} }

type (
	logsLimiter struct {
		limiter
		next consumer.Logs
	}
	tracesLimiter struct {
		limiter
		next consumer.Traces
	}
	metricsLimiter struct {
		limiter
		next consumer.Metrics
	}
)

func (l logsLimiter) ConsumeLogs(ctx context.Context, data plog.Logs) error {
	done, err := l.volume.admit(int64((&plog.ProtoMarshaler{}).LogsSize(data)))
	if err != nil {
		return err
	}
	defer done()
	return l.next.ConsumeLogs(ctx, data)
}

func (l tracesLimiter) ConsumeTraces(ctx context.Context, data ptrace.Traces) error {
	done, err := l.volume.admit(int64((&ptrace.ProtoMarshaler{}).TracesSize(data)))
	if err != nil {
		return err
	}
	defer done()
	return l.next.ConsumeTraces(ctx, data)
}

func (l metricsLimiter) ConsumeMetrics(ctx context.Context, data pmetric.Metrics) error {
	done, err := l.volume.admit(int64((&pmetric.ProtoMarshaler{}).MetricsSize(data)))
	if err != nil {
		return err
	}
	defer done()
	return l.next.ConsumeMetrics(ctx, data)
}

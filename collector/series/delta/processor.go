// Package delta is a processor that converts cumulative metrics to delta temporality.
//
// OpenTelemetry SDKs send cumulative counters and histograms by default. Once the ids of run, task
// and instance are taken off, those of several processes are one series, of which no difference means anything.
// So this stands before that, where they still are apart: each point becomes what was added since the one before.
//
// The first point of a series counts in full: a process that ends after a minute sends no other. What was
// seen is kept in the storage, so that a restart of the collector counts nothing twice, and is forgotten after a
// day without news. It moves on only with what the next component took, so that a sender that was refused, and
// sends the same again, loses nothing.
//
// Counters that may fall (non-monotonic sums) are a state, and stay what they are.
package delta

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor"
	"go.uber.org/zap"
	"otel-metaflow.local/series"
)

// Config is what stands under the processor's id.
type Config struct {
	// Storage is the extension that keeps the points seen; without one they are forgotten at the end.
	Storage *component.ID `mapstructure:"storage"`
}

// NewFactory is what the collector's generated main.go calls.
func NewFactory() processor.Factory {
	return processor.NewFactory(
		component.MustNewType("metaflow_delta"),
		func() component.Config { return &Config{} },
		processor.WithMetrics(create, component.StabilityLevelBeta))
}

func create(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Metrics) (processor.Metrics, error) {
	return &converter{
		id: set.ID, config: cfg.(*Config), next: next, logger: set.Logger, now: time.Now,
		seen: map[series.Identity]Seen{}, stopping: make(chan struct{}),
	}, nil
}

type converter struct {
	id     component.ID
	config *Config
	next   consumer.Metrics
	logger *zap.Logger
	now    func() time.Time

	mutex  sync.Mutex
	seen   map[series.Identity]Seen
	dirty  bool
	client storage.Client

	stopping chan struct{}
	saving   sync.WaitGroup
}

// Seen is the last point of a series: of any kind of metric, with what that kind has.
type Seen struct {
	Start, Time pcommon.Timestamp
	// At is when it came, in seconds since 1970.
	At int64
	// Of a number: Int if it is Whole, and Double in any case.
	Int    int64
	Double float64
	Whole  bool
	Count  uint64
	Sum    float64
	Bounds []float64
	Counts []uint64

	Scale              int32
	Zero               uint64
	Positive, Negative series.Buckets
}

const (
	key      = "seen"
	interval = 5 * time.Second
	// How long a series is remembered, and how many.
	age  = 24 * time.Hour
	most = 100_000
)

func (*converter) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

// Start reads the points that were seen before.
func (c *converter) Start(ctx context.Context, host component.Host) error {
	if c.config.Storage == nil {
		return nil
	}
	extension, ok := host.GetExtensions()[*c.config.Storage].(storage.Extension)
	if !ok {
		return fmt.Errorf("storage: %s is not a storage extension", c.config.Storage)
	}
	client, err := extension.GetClient(ctx, component.KindProcessor, c.id, "")
	if err != nil {
		return err
	}
	c.client = client
	text, err := client.Get(ctx, key)
	if err == nil && text != nil {
		err = gob.NewDecoder(bytes.NewReader(text)).Decode(&c.seen)
	}
	if err != nil {
		c.logger.Warn("cannot read the state of cumulative metrics: their next points count in full", zap.Error(err))
		c.seen = map[series.Identity]Seen{}
	}
	c.saving.Add(1)
	go c.save()
	return nil
}

// Shutdown stores the points seen.
func (c *converter) Shutdown(ctx context.Context) error {
	if c.client == nil {
		return nil
	}
	close(c.stopping)
	c.saving.Wait()
	c.write(ctx)
	return c.client.Close(ctx)
}

func (c *converter) save() {
	defer c.saving.Done()
	for {
		select {
		case <-c.stopping:
			return
		case <-time.After(interval):
			c.write(context.Background())
		}
	}
}

func (c *converter) write(ctx context.Context) {
	c.mutex.Lock()
	if !c.dirty {
		c.mutex.Unlock()
		return
	}
	c.forget()
	text := new(bytes.Buffer)
	err := gob.NewEncoder(text).Encode(c.seen)
	c.dirty = false
	c.mutex.Unlock()
	if err == nil {
		err = c.client.Set(ctx, key, text.Bytes())
	}
	if err != nil {
		c.logger.Warn("cannot store the state of cumulative metrics", zap.Error(err))
	}
}

// forget drops series without news, and when there are too many the half that is longest without.
func (c *converter) forget() {
	limit := c.now().Add(-age).Unix()
	if len(c.seen) > most {
		times := make([]int64, 0, len(c.seen))
		for _, seen := range c.seen {
			times = append(times, seen.At)
		}
		slices.Sort(times)
		limit = max(limit, times[len(times)/2])
	}
	maps.DeleteFunc(c.seen, func(_ series.Identity, seen Seen) bool { return seen.At < limit })
}

// ConsumeMetrics converts one batch at a time, as each depends on the points of the one before.
func (c *converter) ConsumeMetrics(ctx context.Context, data pmetric.Metrics) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	staged := &stage{seen: c.seen, changed: map[series.Identity]Seen{}, at: c.now().Unix()}
	data.ResourceMetrics().RemoveIf(func(resource pmetric.ResourceMetrics) bool {
		resource.ScopeMetrics().RemoveIf(func(scope pmetric.ScopeMetrics) bool {
			scope.Metrics().RemoveIf(func(metric pmetric.Metric) bool {
				return staged.convert(series.Of(resource.Resource(), scope.Scope(), metric), metric)
			})
			return scope.Metrics().Len() == 0
		})
		return resource.ScopeMetrics().Len() == 0
	})
	if data.ResourceMetrics().Len() > 0 {
		if err := c.next.ConsumeMetrics(ctx, data); err != nil {
			return err
		}
	}
	maps.Copy(c.seen, staged.changed)
	c.dirty = c.dirty || len(staged.changed) > 0
	return nil
}

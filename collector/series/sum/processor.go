// Package sum is a processor that adds up points which are one series at a vendor.
//
// Datadog keeps one value of a series for each second: of two counts of the same second the later one
// replaces the earlier. Points of several tasks are one series once the ids of run and task are taken off, so
// those of tasks that end in the same second would replace one another. The processor adds up the deltas of one
// batch (sums, histograms, exponential histograms), and where a second was used by an earlier batch it moves
// the point to the next that was not: a count that is a second late is right, one that is replaced is not.
//
// It belongs behind the queue, where a batch is what came together; it holds nothing back itself. A second counts
// as used when the next component took the batch: the same batch, tried again, uses the same seconds.
package sum

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor"
	"otel-metaflow.local/series"
)

// NewFactory is what the collector's generated main.go calls.
func NewFactory() processor.Factory {
	return processor.NewFactory(
		component.MustNewType("metaflow_sum"),
		func() component.Config { return &struct{}{} },
		processor.WithMetrics(create, component.StabilityLevelBeta))
}

func create(_ context.Context, _ processor.Settings, _ component.Config, next consumer.Metrics) (processor.Metrics, error) {
	return &adder{next: next, now: time.Now, used: map[slot]bool{}, before: map[slot]bool{}}, nil
}

// slot is a second of a series.
type slot struct {
	series series.Identity
	second int64
}

type adder struct {
	component.StartFunc
	component.ShutdownFunc
	next consumer.Metrics
	now  func() time.Time

	mutex sync.Mutex
	// Which seconds are used, in two generations: those before are forgotten when these are too many or old.
	used, before map[slot]bool
	since        time.Time
}

const (
	// Datadog takes no metrics that are older than this (https://docs.datadoghq.com/metrics/custom_metrics/).
	age = time.Hour
	// How many slots a generation has at most.
	most = 200_000
	// How many seconds a point is moved at most: Datadog takes none that is ten minutes ahead.
	furthest = 300
	// statistics are Datadog's trace metrics on their way through a metrics pipeline: each point is a message.
	statistics = "dd.internal.stats.payload"
)

func (*adder) Capabilities() consumer.Capabilities { return consumer.Capabilities{MutatesData: true} }

func (a *adder) ConsumeMetrics(ctx context.Context, data pmetric.Metrics) error {
	claimed := a.claim(data)
	err := a.next.ConsumeMetrics(ctx, data)
	if err != nil {
		a.release(claimed)
	}
	return err
}

// claim adds up the points of one series and second, and gives each sum a second of its own.
func (a *adder) claim(data pmetric.Metrics) []slot {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if now := a.now(); len(a.used) >= most || now.Sub(a.since) > age {
		a.before, a.used, a.since = a.used, map[slot]bool{}, now
	}
	b := newBatch(a)
	data.ResourceMetrics().RemoveIf(func(resource pmetric.ResourceMetrics) bool {
		resource.ScopeMetrics().RemoveIf(func(scope pmetric.ScopeMetrics) bool {
			scope.Metrics().RemoveIf(func(metric pmetric.Metric) bool {
				return metric.Name() != statistics && b.add(series.Of(resource.Resource(), scope.Scope(), metric), metric) == 0
			})
			return scope.Metrics().Len() == 0
		})
		return resource.ScopeMetrics().Len() == 0
	})
	return b.claimed
}

func (a *adder) release(claimed []slot) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	for _, each := range claimed {
		delete(a.used, each)
		delete(a.before, each)
	}
}

// free is the first second from this one on that no earlier batch used.
func (a *adder) free(at slot) slot {
	for range furthest {
		if !a.used[at] && !a.before[at] {
			break
		}
		at.second++
	}
	a.used[at] = true
	return at
}

// Package histogrambuckets is a processor that drops the buckets of histograms and keeps sum and count.
//
// Splunk's exporter makes an event of each bucket. A histogram of one attempt is a single observation, of which
// sum and count are enough, and its buckets are three quarters of what a run sends.
package histogrambuckets

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processorhelper"
)

// Config is what stands under the processor's id.
type Config struct {
	// Keep lets histograms pass as they are.
	Keep bool `mapstructure:"keep"`
}

// NewFactory is what the collector's generated main.go calls.
func NewFactory() processor.Factory {
	return processor.NewFactory(
		component.MustNewType("metaflow_histogram_buckets"),
		func() component.Config { return &Config{} },
		processor.WithMetrics(create, component.StabilityLevelBeta))
}

func create(ctx context.Context, set processor.Settings, cfg component.Config, next consumer.Metrics) (processor.Metrics, error) {
	keep := cfg.(*Config).Keep
	return processorhelper.NewMetrics(ctx, set, cfg, next, func(_ context.Context, data pmetric.Metrics) (pmetric.Metrics, error) {
		if !keep {
			drop(data)
		}
		return data, nil
	}, processorhelper.WithCapabilities(consumer.Capabilities{MutatesData: !keep}))
}

func drop(data pmetric.Metrics) {
	for _, resource := range data.ResourceMetrics().All() {
		for _, scope := range resource.ScopeMetrics().All() {
			for _, metric := range scope.Metrics().All() {
				if metric.Type() != pmetric.MetricTypeHistogram {
					continue
				}
				for _, point := range metric.Histogram().DataPoints().All() {
					point.ExplicitBounds().FromRaw(nil)
					point.BucketCounts().FromRaw(nil)
				}
			}
		}
	}
}

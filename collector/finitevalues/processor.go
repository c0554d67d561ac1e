// Package finitevalues is a processor that converts NaN and infinity, which JSON cannot represent, to text, and drops
// attributes without a value, which OpenTelemetry does not define.
//
// Both vendors' exporters write JSON. A record with such a number in any attribute, however deep, cannot be
// written and is lost, at Splunk with an error, at Datadog without. The text is that of OTLP's own JSON. Splunk also
// refuses an event with a field that is null; in a body, a null stays.
//
// A metric point whose value is no finite number is none that a vendor takes, so it is dropped, and reported:
// text is no value. Where only a part of a histogram is not finite, that part is left out.
package finitevalues

import (
	"context"
	"fmt"
	"math"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processorhelper"
)

// NewFactory is what the collector's generated main.go calls.
func NewFactory() processor.Factory {
	return processor.NewFactory(
		component.MustNewType("metaflow_finite_values"),
		func() component.Config { return &struct{}{} },
		processor.WithLogs(logs, component.StabilityLevelBeta),
		processor.WithTraces(traces, component.StabilityLevelBeta),
		processor.WithMetrics(metrics, component.StabilityLevelBeta))
}

var mutates = processorhelper.WithCapabilities(consumer.Capabilities{MutatesData: true})

func logs(ctx context.Context, set processor.Settings, cfg component.Config, next consumer.Logs) (processor.Logs, error) {
	return processorhelper.NewLogs(ctx, set, cfg, next, func(_ context.Context, data plog.Logs) (plog.Logs, error) {
		for _, resource := range data.ResourceLogs().All() {
			inAttributes(resource.Resource().Attributes())
			for _, scope := range resource.ScopeLogs().All() {
				inAttributes(scope.Scope().Attributes())
				for _, record := range scope.LogRecords().All() {
					inAttributes(record.Attributes())
					inValue(record.Body())
				}
			}
		}
		return data, nil
	}, mutates)
}

func traces(ctx context.Context, set processor.Settings, cfg component.Config, next consumer.Traces) (processor.Traces, error) {
	return processorhelper.NewTraces(ctx, set, cfg, next, func(_ context.Context, data ptrace.Traces) (ptrace.Traces, error) {
		for _, resource := range data.ResourceSpans().All() {
			inAttributes(resource.Resource().Attributes())
			for _, scope := range resource.ScopeSpans().All() {
				inAttributes(scope.Scope().Attributes())
				for _, span := range scope.Spans().All() {
					inAttributes(span.Attributes())
					for _, event := range span.Events().All() {
						inAttributes(event.Attributes())
					}
					for _, link := range span.Links().All() {
						inAttributes(link.Attributes())
					}
				}
			}
		}
		return data, nil
	}, mutates)
}

func metrics(ctx context.Context, set processor.Settings, cfg component.Config, next consumer.Metrics) (processor.Metrics, error) {
	return processorhelper.NewMetrics(ctx, set, cfg, next, func(_ context.Context, data pmetric.Metrics) (pmetric.Metrics, error) {
		for _, resource := range data.ResourceMetrics().All() {
			inAttributes(resource.Resource().Attributes())
			for _, scope := range resource.ScopeMetrics().All() {
				inAttributes(scope.Scope().Attributes())
				for _, metric := range scope.Metrics().All() {
					inAttributes(metric.Metadata())
					if dropped := inMetric(metric); dropped > 0 {
						set.Logger.Error(fmt.Sprintf("dropped %d points of the metric %s: their value is NaN or infinite", dropped, metric.Name()))
					}
				}
			}
		}
		return data, nil
	}, mutates)
}

// inMetric returns how many points it dropped.
func inMetric(metric pmetric.Metric) int {
	dropped := 0
	// none counts each point that is to go.
	none := func(gone bool) bool {
		if gone {
			dropped++
		}
		return gone
	}
	number := func(point pmetric.NumberDataPoint) bool {
		inAttributes(point.Attributes())
		return none(point.ValueType() == pmetric.NumberDataPointValueTypeDouble && !finite(point.DoubleValue()))
	}
	switch metric.Type() {
	case pmetric.MetricTypeGauge:
		metric.Gauge().DataPoints().RemoveIf(number)
	case pmetric.MetricTypeSum:
		metric.Sum().DataPoints().RemoveIf(number)
	case pmetric.MetricTypeHistogram:
		for _, point := range metric.Histogram().DataPoints().All() {
			inAttributes(point.Attributes())
			inParts(point)
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, point := range metric.ExponentialHistogram().DataPoints().All() {
			inAttributes(point.Attributes())
			inParts(point)
		}
	case pmetric.MetricTypeSummary:
		metric.Summary().DataPoints().RemoveIf(func(point pmetric.SummaryDataPoint) bool {
			inAttributes(point.Attributes())
			point.QuantileValues().RemoveIf(func(quantile pmetric.SummaryDataPointValueAtQuantile) bool {
				return !finite(quantile.Value()) || !finite(quantile.Quantile())
			})
			return none(!finite(point.Sum()))
		})
	case pmetric.MetricTypeEmpty:
	}
	return dropped
}

// parts are what both kinds of histogram may have.
type parts interface {
	Sum() float64
	RemoveSum()
	Min() float64
	RemoveMin()
	Max() float64
	RemoveMax()
}

func inParts(point parts) {
	if !finite(point.Sum()) {
		point.RemoveSum()
	}
	if !finite(point.Min()) {
		point.RemoveMin()
	}
	if !finite(point.Max()) {
		point.RemoveMax()
	}
}

func finite(number float64) bool { return !math.IsNaN(number) && !math.IsInf(number, 0) }

// inAttributes drops what is empty, in maps among them, too: Splunk's exporter makes fields of these.
func inAttributes(attributes pcommon.Map) {
	attributes.RemoveIf(func(_ string, value pcommon.Value) bool {
		if value.Type() == pcommon.ValueTypeMap {
			inAttributes(value.Map())
		} else {
			inValue(value)
		}
		return value.Type() == pcommon.ValueTypeEmpty
	})
}

func inMap(attributes pcommon.Map) {
	for _, value := range attributes.All() {
		inValue(value)
	}
}

func inValue(value pcommon.Value) {
	switch value.Type() {
	case pcommon.ValueTypeDouble:
		if number := value.Double(); !finite(number) {
			value.SetStr(text(number))
		}
	case pcommon.ValueTypeMap:
		inMap(value.Map())
	case pcommon.ValueTypeSlice:
		for _, each := range value.Slice().All() {
			inValue(each)
		}
	case pcommon.ValueTypeEmpty, pcommon.ValueTypeStr, pcommon.ValueTypeBool, pcommon.ValueTypeInt, pcommon.ValueTypeBytes:
	}
}

func text(number float64) string {
	switch {
	case math.IsInf(number, 1):
		return "Infinity"
	case math.IsInf(number, -1):
		return "-Infinity"
	}
	return "NaN"
}

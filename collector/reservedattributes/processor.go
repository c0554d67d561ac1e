// Package reservedattributes is a processor that renames attributes whose names a vendor reserves for its own fields.
//
// A vendor makes one flat record of resource, scope and record, in which some names mean something: with an
// attribute `message` on a resource the line's text is replaced, with `host` its host, with `date` its time. Here
// each such attribute becomes `extra.message`, on whichever level it stands.
//
//	processors:
//	  metaflow_reserved_attributes/splunk:
//	    names: [host, source, index]   # in upper or lower case
//	    prefixes: [_]
//	    within: [resource, log]        # of resource, scope, log, span, datapoint; all if there is none
package reservedattributes

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processorhelper"
)

// Config is what stands under the processor's id.
type Config struct {
	Names    []string `mapstructure:"names"`
	Prefixes []string `mapstructure:"prefixes"`
	Within   []string `mapstructure:"within"`
}

const prefix = "extra."

var levels = []string{"resource", "scope", "log", "span", "datapoint"}

// Validate names a level that there is not.
func (c *Config) Validate() error {
	for _, level := range c.Within {
		if !slices.Contains(levels, level) {
			return fmt.Errorf("within: %q is none of %s", level, strings.Join(levels, ", "))
		}
	}
	return nil
}

// NewFactory is what the collector's generated main.go calls.
func NewFactory() processor.Factory {
	return processor.NewFactory(
		component.MustNewType("metaflow_reserved_attributes"),
		func() component.Config { return &Config{} },
		processor.WithLogs(logs, component.StabilityLevelBeta),
		processor.WithTraces(traces, component.StabilityLevelBeta),
		processor.WithMetrics(metrics, component.StabilityLevelBeta))
}

type mover struct {
	names    map[string]bool
	prefixes []string
	within   map[string]bool
}

func newMover(c *Config) *mover {
	m := &mover{names: map[string]bool{}, within: map[string]bool{}}
	for _, name := range c.Names {
		m.names[strings.ToLower(name)] = true
	}
	for _, each := range c.Prefixes {
		m.prefixes = append(m.prefixes, strings.ToLower(each))
	}
	within := c.Within
	if len(within) == 0 {
		within = levels
	}
	for _, level := range within {
		m.within[level] = true
	}
	return m
}

func (m *mover) reserved(name string) bool {
	name = strings.ToLower(name)
	return m.names[name] || slices.ContainsFunc(m.prefixes, func(each string) bool { return strings.HasPrefix(name, each) })
}

func (m *mover) move(level string, attributes pcommon.Map) {
	if !m.within[level] {
		return
	}
	var found []string
	for name := range attributes.All() {
		if m.reserved(name) {
			found = append(found, name)
		}
	}
	for _, name := range found {
		free := prefix + name
		for {
			if _, taken := attributes.Get(free); !taken {
				break
			}
			free = prefix + free
		}
		// The new place first: to make it may move what the old one holds.
		to := attributes.PutEmpty(free)
		from, _ := attributes.Get(name)
		from.CopyTo(to)
		attributes.Remove(name)
	}
}

var mutates = processorhelper.WithCapabilities(consumer.Capabilities{MutatesData: true})

func logs(ctx context.Context, set processor.Settings, cfg component.Config, next consumer.Logs) (processor.Logs, error) {
	m := newMover(cfg.(*Config))
	return processorhelper.NewLogs(ctx, set, cfg, next, func(_ context.Context, data plog.Logs) (plog.Logs, error) {
		for _, resource := range data.ResourceLogs().All() {
			m.move("resource", resource.Resource().Attributes())
			for _, scope := range resource.ScopeLogs().All() {
				m.move("scope", scope.Scope().Attributes())
				for _, record := range scope.LogRecords().All() {
					m.move("log", record.Attributes())
				}
			}
		}
		return data, nil
	}, mutates)
}

func traces(ctx context.Context, set processor.Settings, cfg component.Config, next consumer.Traces) (processor.Traces, error) {
	m := newMover(cfg.(*Config))
	return processorhelper.NewTraces(ctx, set, cfg, next, func(_ context.Context, data ptrace.Traces) (ptrace.Traces, error) {
		for _, resource := range data.ResourceSpans().All() {
			m.move("resource", resource.Resource().Attributes())
			for _, scope := range resource.ScopeSpans().All() {
				m.move("scope", scope.Scope().Attributes())
				for _, span := range scope.Spans().All() {
					m.move("span", span.Attributes())
				}
			}
		}
		return data, nil
	}, mutates)
}

func metrics(ctx context.Context, set processor.Settings, cfg component.Config, next consumer.Metrics) (processor.Metrics, error) {
	m := newMover(cfg.(*Config))
	return processorhelper.NewMetrics(ctx, set, cfg, next, func(_ context.Context, data pmetric.Metrics) (pmetric.Metrics, error) {
		for _, resource := range data.ResourceMetrics().All() {
			m.move("resource", resource.Resource().Attributes())
			for _, scope := range resource.ScopeMetrics().All() {
				m.move("scope", scope.Scope().Attributes())
				for _, metric := range scope.Metrics().All() {
					m.moveIn(metric)
				}
			}
		}
		return data, nil
	}, mutates)
}

func (m *mover) moveIn(metric pmetric.Metric) {
	switch metric.Type() {
	case pmetric.MetricTypeGauge:
		for _, point := range metric.Gauge().DataPoints().All() {
			m.move("datapoint", point.Attributes())
		}
	case pmetric.MetricTypeSum:
		for _, point := range metric.Sum().DataPoints().All() {
			m.move("datapoint", point.Attributes())
		}
	case pmetric.MetricTypeHistogram:
		for _, point := range metric.Histogram().DataPoints().All() {
			m.move("datapoint", point.Attributes())
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, point := range metric.ExponentialHistogram().DataPoints().All() {
			m.move("datapoint", point.Attributes())
		}
	case pmetric.MetricTypeSummary:
		for _, point := range metric.Summary().DataPoints().All() {
			m.move("datapoint", point.Attributes())
		}
	case pmetric.MetricTypeEmpty:
	}
}

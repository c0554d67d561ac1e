package reservedattributes

import (
	"context"
	"maps"
	"testing"

	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor/processortest"
)

var config = &Config{Names: []string{"host", "index"}, Prefixes: []string{"_"}}

func fill(attributes pcommon.Map) {
	attributes.PutStr("Host", "a")
	attributes.PutInt("index", 2)
	attributes.PutStr("extra.index", "was there")
	attributes.PutEmptyMap("_meta").PutStr("host", "inside stays")
	attributes.PutStr("host.name", "stays")
}

func check(t *testing.T, where string, attributes pcommon.Map) {
	t.Helper()
	want := map[string]string{
		"extra.Host": "a", "extra.extra.index": "2", "extra.index": "was there",
		"extra._meta": `{"host":"inside stays"}`, "host.name": "stays",
	}
	got := map[string]string{}
	for key, value := range attributes.All() {
		got[key] = value.AsString()
	}
	if !maps.Equal(got, want) {
		t.Errorf("%s: got %v", where, got)
	}
}

func TestReservedNamesAreMovedAsideOnEveryLevel(t *testing.T) {
	ctx, set := context.Background(), processortest.NewNopSettings(NewFactory().Type())

	data := plog.NewLogs()
	resource := data.ResourceLogs().AppendEmpty()
	scope := resource.ScopeLogs().AppendEmpty()
	record := scope.LogRecords().AppendEmpty()
	trace := ptrace.NewTraces()
	span := trace.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	measured := pmetric.NewMetrics()
	found := measured.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
	places := map[string]pcommon.Map{
		"resource": resource.Resource().Attributes(), "scope": scope.Scope().Attributes(), "log": record.Attributes(), "span": span.Attributes(),
		"sum":         found.AppendEmpty().SetEmptySum().DataPoints().AppendEmpty().Attributes(),
		"gauge":       found.AppendEmpty().SetEmptyGauge().DataPoints().AppendEmpty().Attributes(),
		"histogram":   found.AppendEmpty().SetEmptyHistogram().DataPoints().AppendEmpty().Attributes(),
		"exponential": found.AppendEmpty().SetEmptyExponentialHistogram().DataPoints().AppendEmpty().Attributes(),
		"summary":     found.AppendEmpty().SetEmptySummary().DataPoints().AppendEmpty().Attributes(),
	}
	for _, attributes := range places {
		fill(attributes)
	}
	p, _ := NewFactory().CreateLogs(ctx, set, config, new(consumertest.LogsSink))
	q, _ := NewFactory().CreateTraces(ctx, set, config, new(consumertest.TracesSink))
	r, _ := NewFactory().CreateMetrics(ctx, set, config, new(consumertest.MetricsSink))
	for _, err := range []error{p.ConsumeLogs(ctx, data), q.ConsumeTraces(ctx, trace), r.ConsumeMetrics(ctx, measured)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for where, attributes := range places {
		check(t, where, attributes)
	}
}

func TestALevelMayBeLeftAlone(t *testing.T) {
	trace := ptrace.NewTraces()
	resource := trace.ResourceSpans().AppendEmpty()
	span := resource.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	resource.Resource().Attributes().PutStr("host", "a")
	span.Attributes().PutStr("host", "a")
	p, _ := NewFactory().CreateTraces(context.Background(), processortest.NewNopSettings(NewFactory().Type()),
		&Config{Names: []string{"host"}, Within: []string{"resource"}}, new(consumertest.TracesSink))
	if err := p.ConsumeTraces(context.Background(), trace); err != nil {
		t.Fatal(err)
	}
	if _, ok := span.Attributes().Get("host"); !ok {
		t.Error("moved")
	}
	if _, ok := resource.Resource().Attributes().Get("extra.host"); !ok {
		t.Error("not moved")
	}
}

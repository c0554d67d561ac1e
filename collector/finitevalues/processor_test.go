package finitevalues

import (
	"context"
	"encoding/json"
	"math"
	"testing"

	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor/processortest"
)

var numbers = map[string]float64{"NaN": math.NaN(), "Infinity": math.Inf(1), "-Infinity": math.Inf(-1)}

// fill puts the number at every depth beside one that stays.
func fill(attributes pcommon.Map, number float64) {
	attributes.PutDouble("plain", number)
	attributes.PutDouble("kept", 1.5)
	list := attributes.PutEmptyMap("map").PutEmptySlice("list")
	list.AppendEmpty().SetDouble(number)
	list.AppendEmpty().SetEmptyMap().PutDouble("deep", number)
}

func check(t *testing.T, where string, attributes pcommon.Map, want string) {
	t.Helper()
	text, err := json.Marshal(attributes.AsRaw())
	if err != nil {
		t.Errorf("%s: %v", where, err)
		return
	}
	if expected := `{"kept":1.5,"map":{"list":["` + want + `",{"deep":"` + want + `"}]},"plain":"` + want + `"}`; string(text) != expected {
		t.Errorf("%s: got %s, want %s", where, text, expected)
	}
}

func TestWhatJSONHasNoNumberForIsText(t *testing.T) {
	for want, number := range numbers {
		ctx, set := context.Background(), processortest.NewNopSettings(NewFactory().Type())
		records, spans, points := new(consumertest.LogsSink), new(consumertest.TracesSink), new(consumertest.MetricsSink)

		data := plog.NewLogs()
		resource := data.ResourceLogs().AppendEmpty()
		fill(resource.Resource().Attributes(), number)
		scope := resource.ScopeLogs().AppendEmpty()
		fill(scope.Scope().Attributes(), number)
		record := scope.LogRecords().AppendEmpty()
		fill(record.Attributes(), number)
		fill(record.Body().SetEmptyMap(), number)
		p, _ := NewFactory().CreateLogs(ctx, set, nil, records)
		if err := p.ConsumeLogs(ctx, data); err != nil {
			t.Fatal(err)
		}
		check(t, "resource", resource.Resource().Attributes(), want)
		check(t, "scope", scope.Scope().Attributes(), want)
		check(t, "record", record.Attributes(), want)
		check(t, "body", record.Body().Map(), want)

		trace := ptrace.NewTraces()
		span := trace.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		fill(span.Attributes(), number)
		fill(span.Events().AppendEmpty().Attributes(), number)
		fill(span.Links().AppendEmpty().Attributes(), number)
		q, _ := NewFactory().CreateTraces(ctx, set, nil, spans)
		if err := q.ConsumeTraces(ctx, trace); err != nil {
			t.Fatal(err)
		}
		check(t, "span", span.Attributes(), want)
		check(t, "event", span.Events().At(0).Attributes(), want)
		check(t, "link", span.Links().At(0).Attributes(), want)

		measured := pmetric.NewMetrics()
		found := measured.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
		sum := found.AppendEmpty().SetEmptySum().DataPoints()
		sum.AppendEmpty().SetDoubleValue(number)
		kept := sum.AppendEmpty()
		kept.SetDoubleValue(2)
		fill(kept.Attributes(), number)
		histogram := found.AppendEmpty().SetEmptyHistogram().DataPoints().AppendEmpty()
		histogram.SetSum(number)
		histogram.SetMin(number)
		histogram.SetMax(number)
		histogram.SetCount(3)
		r, _ := NewFactory().CreateMetrics(ctx, set, nil, points)
		if err := r.ConsumeMetrics(ctx, measured); err != nil {
			t.Fatal(err)
		}
		if sum.Len() != 1 {
			t.Fatalf("%d points", sum.Len())
		}
		check(t, "point", sum.At(0).Attributes(), want)
		if histogram.HasSum() || histogram.HasMin() || histogram.HasMax() || histogram.Count() != 3 {
			t.Errorf("a histogram has %v", histogram)
		}
	}
}

func TestAnAttributeWithoutAValueIsNone(t *testing.T) {
	records := new(consumertest.LogsSink)
	data := plog.NewLogs()
	record := data.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	for _, each := range []pcommon.Map{record.Attributes(), record.Body().SetEmptyMap()} {
		each.PutEmpty("none")
		each.PutStr("kept", "")
		each.PutEmptyMap("map").PutEmpty("none")
	}
	p, _ := NewFactory().CreateLogs(context.Background(), processortest.NewNopSettings(NewFactory().Type()), nil, records)
	if err := p.ConsumeLogs(context.Background(), data); err != nil {
		t.Fatal(err)
	}
	for where, each := range map[string]struct {
		found any
		want  string
	}{
		"attributes": {record.Attributes().AsRaw(), `{"kept":"","map":{}}`},
		"body":       {record.Body().Map().AsRaw(), `{"kept":"","map":{"none":null},"none":null}`},
	} {
		if text, _ := json.Marshal(each.found); string(text) != each.want {
			t.Errorf("%s: got %s, want %s", where, text, each.want)
		}
	}
}

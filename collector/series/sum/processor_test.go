package sum

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor/processortest"
)

func adderTo(sink *consumertest.MetricsSink) *adder {
	p, _ := NewFactory().CreateMetrics(context.Background(), processortest.NewNopSettings(NewFactory().Type()), nil, sink)
	return p.(*adder)
}

const second = 1_000_000_000

func add(data pmetric.Metrics, series string, at int64) {
	metric := data.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	metric.SetName("rows")
	sum := metric.SetEmptySum()
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	point := sum.DataPoints().AppendEmpty()
	point.Attributes().PutStr("series", series)
	point.SetTimestamp(pcommon.Timestamp(at))
	point.SetIntValue(1)
}

// stored is what is left where each series has one value for each second.
func stored(sink *consumertest.MetricsSink) map[string]int64 {
	last := map[string]map[int64]int64{}
	for _, data := range sink.AllMetrics() {
		for _, resource := range data.ResourceMetrics().All() {
			for _, scope := range resource.ScopeMetrics().All() {
				for _, metric := range scope.Metrics().All() {
					for _, point := range metric.Sum().DataPoints().All() {
						series, _ := point.Attributes().Get("series")
						if last[series.Str()] == nil {
							last[series.Str()] = map[int64]int64{}
						}
						last[series.Str()][point.Timestamp().AsTime().Unix()] = point.IntValue()
					}
				}
			}
		}
	}
	found := map[string]int64{}
	for series, seconds := range last {
		for _, value := range seconds {
			found[series] += value
		}
	}
	return found
}

func TestNothingReplacesAnything(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		sink := new(consumertest.MetricsSink)
		a := adderTo(sink)
		want := map[string]int64{}
		for range 1 + random.IntN(20) {
			data := pmetric.NewMetrics()
			for range random.IntN(20) {
				series := string(rune('a' + random.IntN(3)))
				add(data, series, 1_700_000_000*second+random.Int64N(5*second))
				want[series]++
			}
			if err := a.ConsumeMetrics(context.Background(), data); err != nil {
				t.Fatal(err)
			}
		}
		got := stored(sink)
		for series, count := range want {
			if got[series] != count {
				t.Fatalf("got %v, want %v", got, want)
			}
		}
	}
}

type failing struct{ *consumertest.MetricsSink }

func (failing) ConsumeMetrics(context.Context, pmetric.Metrics) error { return errors.New("away") }

func TestWhatIsTriedAgainUsesTheSameSecond(t *testing.T) {
	sink := new(consumertest.MetricsSink)
	a := adderTo(sink)
	for _, fails := range []bool{true, true, false} {
		a.next = sink
		if fails {
			a.next = failing{sink}
		}
		data := pmetric.NewMetrics()
		add(data, "a", 1_700_000_000*second)
		if err := a.ConsumeMetrics(context.Background(), data); (err != nil) != fails {
			t.Fatal(err)
		}
	}
	point := sink.AllMetrics()[0].ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Sum().DataPoints().At(0)
	if point.Timestamp() != 1_700_000_000*second {
		t.Errorf("moved to %v", point.Timestamp())
	}
}

func TestAStateAndDatadogsStatisticsAreLeftAlone(t *testing.T) {
	sink := new(consumertest.MetricsSink)
	a := adderTo(sink)
	data := pmetric.NewMetrics()
	metrics := data.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
	gauge := metrics.AppendEmpty()
	points := gauge.SetEmptyGauge().DataPoints()
	points.AppendEmpty().SetIntValue(1)
	points.AppendEmpty().SetIntValue(2)
	message := metrics.AppendEmpty()
	message.SetName(statistics)
	messages := message.SetEmptySum()
	messages.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	messages.DataPoints().AppendEmpty()
	messages.DataPoints().AppendEmpty()
	if err := a.ConsumeMetrics(context.Background(), data); err != nil {
		t.Fatal(err)
	}
	if points.Len() != 2 || messages.DataPoints().Len() != 2 {
		t.Errorf("%d and %d points", points.Len(), messages.DataPoints().Len())
	}
}

func TestExponentialHistogramsOfAnyScaleAddUp(t *testing.T) {
	sink := new(consumertest.MetricsSink)
	a := adderTo(sink)
	data := pmetric.NewMetrics()
	metric := data.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	histogram := metric.SetEmptyExponentialHistogram()
	histogram.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	for scale, value := range map[int32]float64{20: 1.5, 3: 1e9, 0: 1e-9} {
		point := histogram.DataPoints().AppendEmpty()
		point.SetTimestamp(1_700_000_000 * second)
		point.SetScale(scale)
		point.SetCount(1)
		point.SetSum(value)
		point.SetMin(value)
		point.SetMax(value)
		point.Positive().SetOffset(int32(math.Ceil(math.Log2(value)*math.Exp2(float64(scale)))) - 1)
		point.Positive().BucketCounts().Append(1)
	}
	if err := a.ConsumeMetrics(context.Background(), data); err != nil {
		t.Fatal(err)
	}
	if histogram.DataPoints().Len() != 1 {
		t.Fatalf("%d points", histogram.DataPoints().Len())
	}
	point := histogram.DataPoints().At(0)
	var counted uint64
	for _, count := range point.Positive().BucketCounts().All() {
		counted += count
	}
	if point.Count() != 3 || counted != 3 || point.Min() != 1e-9 || point.Max() != 1e9 || point.Positive().BucketCounts().Len() > 160 {
		t.Errorf("got count %d, %d in %d buckets, %v to %v", point.Count(), counted, point.Positive().BucketCounts().Len(), point.Min(), point.Max())
	}
}

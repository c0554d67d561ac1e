package delta

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor/processortest"
	"otel-metaflow.local/series"
)

func converterTo(sink *consumertest.MetricsSink) *converter {
	p, _ := NewFactory().CreateMetrics(context.Background(), processortest.NewNopSettings(NewFactory().Type()), &Config{}, sink)
	return p.(*converter)
}

// one is a batch with a single metric.
func one(process string) (pmetric.Metrics, pmetric.Metric) {
	data := pmetric.NewMetrics()
	resource := data.ResourceMetrics().AppendEmpty()
	resource.Resource().Attributes().PutStr("service.instance.id", process)
	metric := resource.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	metric.SetName("rows")
	return data, metric
}

func counter(process string, start, at int, value int64) pmetric.Metrics {
	data, metric := one(process)
	sum := metric.SetEmptySum()
	sum.SetIsMonotonic(true)
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	point := sum.DataPoints().AppendEmpty()
	point.SetStartTimestamp(pcommon.Timestamp(start))
	point.SetTimestamp(pcommon.Timestamp(at))
	point.SetIntValue(value)
	return data
}

func values(t *testing.T, sink *consumertest.MetricsSink) []int64 {
	t.Helper()
	var found []int64
	for _, data := range sink.AllMetrics() {
		sum := data.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Sum()
		if sum.AggregationTemporality() != pmetric.AggregationTemporalityDelta {
			t.Error("not delta")
		}
		found = append(found, sum.DataPoints().At(0).IntValue())
	}
	return found
}

func TestACounterBecomesWhatWasAdded(t *testing.T) {
	for name, test := range map[string]struct {
		points []pmetric.Metrics
		want   []int64
	}{
		"goes on":                  {[]pmetric.Metrics{counter("a", 1, 10, 5), counter("a", 1, 20, 7), counter("a", 1, 30, 7)}, []int64{5, 2, 0}},
		"processes are apart":      {[]pmetric.Metrics{counter("a", 1, 10, 5), counter("b", 1, 20, 7)}, []int64{5, 7}},
		"sent again":               {[]pmetric.Metrics{counter("a", 1, 10, 5), counter("a", 1, 10, 5), counter("a", 1, 20, 6)}, []int64{5, 1}},
		"out of order":             {[]pmetric.Metrics{counter("a", 1, 20, 7), counter("a", 1, 10, 5), counter("a", 1, 30, 8)}, []int64{7, 1}},
		"begun anew":               {[]pmetric.Metrics{counter("a", 1, 10, 5), counter("a", 15, 20, 7)}, []int64{5, 7}},
		"begun anew, unsaid":       {[]pmetric.Metrics{counter("a", 0, 10, 5), counter("a", 0, 20, 2)}, []int64{5, 2}},
		"late start, never a zero": {[]pmetric.Metrics{counter("a", 0, 10, 5)}, []int64{5}},
	} {
		t.Run(name, func(t *testing.T) {
			sink := new(consumertest.MetricsSink)
			c := converterTo(sink)
			for _, each := range test.points {
				if err := c.ConsumeMetrics(context.Background(), each); err != nil {
					t.Fatal(err)
				}
			}
			got := values(t, sink)
			if len(got) != len(test.want) {
				t.Fatalf("got %v, want %v", got, test.want)
			}
			for i := range got {
				if got[i] != test.want[i] {
					t.Errorf("got %v, want %v", got, test.want)
				}
			}
		})
	}
}

type refusing struct{ consumertest.MetricsSink }

func (*refusing) ConsumeMetrics(context.Context, pmetric.Metrics) error { return errors.New("full") }

func TestWhatWasRefusedCountsWhenItIsSentAgain(t *testing.T) {
	sink := new(consumertest.MetricsSink)
	c := converterTo(sink)
	if err := c.ConsumeMetrics(context.Background(), counter("a", 1, 10, 5)); err != nil {
		t.Fatal(err)
	}
	c.next = &refusing{}
	if err := c.ConsumeMetrics(context.Background(), counter("a", 1, 20, 9)); err == nil {
		t.Fatal("no error")
	}
	c.next = sink
	if err := c.ConsumeMetrics(context.Background(), counter("a", 1, 20, 9)); err != nil {
		t.Fatal(err)
	}
	if got := values(t, sink); len(got) != 2 || got[1] != 4 {
		t.Errorf("got %v", got)
	}
}

// Whatever is observed, the deltas of an exponential histogram add up to it, bucket by bucket.
func TestAnExponentialHistogramAddsUp(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		sink := new(consumertest.MetricsSink)
		c := converterTo(sink)
		positive, scale := series.Buckets{}, int32(5)
		var count uint64
		for at := range 10 {
			if random.IntN(3) == 0 {
				scale--
				positive = positive.Coarser(1)
			}
			for range random.IntN(20) {
				positive = positive.Add(series.Buckets{int32(random.IntN(200) - 100): 1})
				count++
			}
			data, metric := one("a")
			histogram := metric.SetEmptyExponentialHistogram()
			histogram.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			point := histogram.DataPoints().AppendEmpty()
			point.SetTimestamp(pcommon.Timestamp(at + 1))
			point.SetScale(scale)
			point.SetCount(count)
			point.SetSum(float64(count))
			positive.To(point.Positive())
			if err := c.ConsumeMetrics(context.Background(), data); err != nil {
				t.Fatal(err)
			}
		}
		found, sum, counted := series.Buckets{}, 0.0, uint64(0)
		for _, data := range sink.AllMetrics() {
			point := data.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).ExponentialHistogram().DataPoints().At(0)
			found = found.Add(series.BucketsOf(point.Positive()).Coarser(point.Scale() - scale))
			sum += point.Sum()
			counted += point.Count()
		}
		if counted != count || sum != float64(count) {
			t.Fatalf("count %d, sum %v, want %d", counted, sum, count)
		}
		if left, ok := positive.Less(found); !ok || len(left) > 0 {
			t.Fatalf("got %v, want %v", found, positive)
		}
	}
}

func TestSeriesWithoutNewsAreForgotten(t *testing.T) {
	c := converterTo(new(consumertest.MetricsSink))
	now := time.Unix(1_000_000, 0)
	c.now = func() time.Time { return now }
	for i := range most + 10 {
		c.seen[series.Identity{byte(i), byte(i >> 8), byte(i >> 16)}] = Seen{At: now.Unix() - int64(i)/10}
	}
	c.forget()
	if len(c.seen) > most {
		t.Errorf("%d are left", len(c.seen))
	}
	now = now.Add(2 * age)
	c.forget()
	if len(c.seen) > 0 {
		t.Errorf("%d are left", len(c.seen))
	}
}

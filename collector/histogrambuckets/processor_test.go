package histogrambuckets

import (
	"context"
	"testing"

	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor/processortest"
)

func TestSumAndCountStay(t *testing.T) {
	for _, keep := range []bool{false, true} {
		sink := new(consumertest.MetricsSink)
		factory := NewFactory()
		p, err := factory.CreateMetrics(context.Background(), processortest.NewNopSettings(factory.Type()), &Config{Keep: keep}, sink)
		if err != nil {
			t.Fatal(err)
		}
		data := pmetric.NewMetrics()
		point := data.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty().SetEmptyHistogram().DataPoints().AppendEmpty()
		point.SetSum(7)
		point.SetCount(2)
		point.SetMax(5)
		point.ExplicitBounds().FromRaw([]float64{1, 5})
		point.BucketCounts().FromRaw([]uint64{0, 2, 0})
		if err := p.ConsumeMetrics(context.Background(), data); err != nil {
			t.Fatal(err)
		}
		got := sink.AllMetrics()[0].ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Histogram().DataPoints().At(0)
		if got.Sum() != 7 || got.Count() != 2 || got.Max() != 5 || (got.BucketCounts().Len() == 3) != keep {
			t.Errorf("keep %v: %v of %v, %v", keep, got.Sum(), got.Count(), got.BucketCounts().AsRaw())
		}
	}
}

package sum

import (
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"otel-metaflow.local/series"
)

// batch holds the first point of each series and second in a batch, to which later ones are added.
type batch struct {
	adder       *adder
	claimed     []slot
	numbers     map[slot]pmetric.NumberDataPoint
	histograms  map[slot]pmetric.HistogramDataPoint
	exponential map[slot]pmetric.ExponentialHistogramDataPoint
}

func newBatch(a *adder) *batch {
	return &batch{
		adder:       a,
		numbers:     map[slot]pmetric.NumberDataPoint{},
		histograms:  map[slot]pmetric.HistogramDataPoint{},
		exponential: map[slot]pmetric.ExponentialHistogramDataPoint{},
	}
}

// add returns how many points are left of a metric. Of what is no delta the latest value is right.
func (b *batch) add(of series.Describer, metric pmetric.Metric) int {
	switch metric.Type() {
	case pmetric.MetricTypeSum:
		points := metric.Sum().DataPoints()
		if metric.Sum().AggregationTemporality() == pmetric.AggregationTemporalityDelta {
			points.RemoveIf(func(point pmetric.NumberDataPoint) bool { return merge(b, b.numbers, of, point, addNumber) })
		}
		return points.Len()
	case pmetric.MetricTypeHistogram:
		points := metric.Histogram().DataPoints()
		if metric.Histogram().AggregationTemporality() == pmetric.AggregationTemporalityDelta {
			points.RemoveIf(func(point pmetric.HistogramDataPoint) bool { return merge(b, b.histograms, of, point, addHistogram) })
		}
		return points.Len()
	case pmetric.MetricTypeExponentialHistogram:
		points := metric.ExponentialHistogram().DataPoints()
		if metric.ExponentialHistogram().AggregationTemporality() == pmetric.AggregationTemporalityDelta {
			points.RemoveIf(func(point pmetric.ExponentialHistogramDataPoint) bool {
				return merge(b, b.exponential, of, point, addExponential)
			})
		}
		return points.Len()
	case pmetric.MetricTypeGauge:
		return metric.Gauge().DataPoints().Len()
	case pmetric.MetricTypeSummary:
		return metric.Summary().DataPoints().Len()
	case pmetric.MetricTypeEmpty:
	}
	return 0
}

type point interface {
	Attributes() pcommon.Map
	StartTimestamp() pcommon.Timestamp
	SetStartTimestamp(pcommon.Timestamp)
	Timestamp() pcommon.Timestamp
	SetTimestamp(pcommon.Timestamp)
}

// merge reports whether the point was added to an existing one; otherwise it gets a second of its own.
func merge[P point](b *batch, seen map[slot]P, of series.Describer, each P, add func(to, from P) bool) bool {
	at := slot{of.Identity(each.Attributes()), each.Timestamp().AsTime().Unix()}
	first, known := seen[at]
	if known && add(first, each) {
		first.SetStartTimestamp(min(first.StartTimestamp(), each.StartTimestamp()))
		return true
	}
	own := b.adder.free(at)
	b.claimed = append(b.claimed, own)
	if later := time.Duration(own.second-at.second) * time.Second; later > 0 {
		each.SetTimestamp(each.Timestamp() + pcommon.Timestamp(later))
	}
	if !known {
		seen[at] = each
	}
	return false
}

func addNumber(to, from pmetric.NumberDataPoint) bool {
	if to.ValueType() == pmetric.NumberDataPointValueTypeInt && from.ValueType() == pmetric.NumberDataPointValueTypeInt {
		to.SetIntValue(to.IntValue() + from.IntValue())
	} else {
		to.SetDoubleValue(number(to) + number(from))
	}
	from.Exemplars().MoveAndAppendTo(to.Exemplars())
	return true
}

func number(point pmetric.NumberDataPoint) float64 {
	if point.ValueType() == pmetric.NumberDataPointValueTypeInt {
		return float64(point.IntValue())
	}
	return point.DoubleValue()
}

// parts are what both kinds of histogram may have.
type parts interface {
	Count() uint64
	SetCount(uint64)
	HasSum() bool
	Sum() float64
	SetSum(float64)
	RemoveSum()
	HasMin() bool
	Min() float64
	SetMin(float64)
	RemoveMin()
	HasMax() bool
	Max() float64
	SetMax(float64)
	RemoveMax()
}

func addParts(to, from parts) {
	// A point without observations has no extremes, and takes none away from the other.
	if to.Count() > 0 && from.Count() > 0 {
		if to.HasMin() && from.HasMin() {
			to.SetMin(min(to.Min(), from.Min()))
		} else {
			to.RemoveMin()
		}
		if to.HasMax() && from.HasMax() {
			to.SetMax(max(to.Max(), from.Max()))
		} else {
			to.RemoveMax()
		}
	} else if from.Count() > 0 {
		if from.HasMin() {
			to.SetMin(from.Min())
		}
		if from.HasMax() {
			to.SetMax(from.Max())
		}
	}
	if to.HasSum() && from.HasSum() {
		to.SetSum(to.Sum() + from.Sum())
	} else {
		to.RemoveSum()
	}
	to.SetCount(to.Count() + from.Count())
}

// addHistogram adds only what has the same bounds: other counts would be guessed.
func addHistogram(to, from pmetric.HistogramDataPoint) bool {
	if !slices.Equal(to.ExplicitBounds().AsRaw(), from.ExplicitBounds().AsRaw()) || to.BucketCounts().Len() != from.BucketCounts().Len() {
		return false
	}
	for i, count := range from.BucketCounts().All() {
		to.BucketCounts().SetAt(i, to.BucketCounts().At(i)+count)
	}
	addParts(to, from)
	from.Exemplars().MoveAndAppendTo(to.Exemplars())
	return true
}

// addExponential adds at the coarser of both scales, or coarser still where that would be too many buckets.
func addExponential(to, from pmetric.ExponentialHistogramDataPoint) bool {
	scale := min(to.Scale(), from.Scale())
	positive := series.BucketsOf(to.Positive()).Coarser(to.Scale() - scale).Add(series.BucketsOf(from.Positive()).Coarser(from.Scale() - scale))
	negative := series.BucketsOf(to.Negative()).Coarser(to.Scale() - scale).Add(series.BucketsOf(from.Negative()).Coarser(from.Scale() - scale))
	excess := max(positive.Excess(), negative.Excess())
	to.SetScale(scale - excess)
	positive.Coarser(excess).To(to.Positive())
	negative.Coarser(excess).To(to.Negative())
	to.SetZeroCount(to.ZeroCount() + from.ZeroCount())
	to.SetZeroThreshold(max(to.ZeroThreshold(), from.ZeroThreshold()))
	addParts(to, from)
	from.Exemplars().MoveAndAppendTo(to.Exemplars())
	return true
}

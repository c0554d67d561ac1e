package delta

import (
	"slices"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"otel-metaflow.local/series"
)

// stage holds the changes of a batch to the points seen, until the batch is accepted.
type stage struct {
	seen, changed map[series.Identity]Seen
	at            int64
}

// convert reports whether nothing is left of a metric that was cumulative.
func (s *stage) convert(of series.Describer, metric pmetric.Metric) bool {
	const cumulative, delta = pmetric.AggregationTemporalityCumulative, pmetric.AggregationTemporalityDelta
	switch metric.Type() {
	case pmetric.MetricTypeSum:
		if sum := metric.Sum(); sum.IsMonotonic() && sum.AggregationTemporality() == cumulative {
			sum.SetAggregationTemporality(delta)
			sum.DataPoints().RemoveIf(func(point pmetric.NumberDataPoint) bool { return convert(s, of, point, number) })
			return sum.DataPoints().Len() == 0
		}
	case pmetric.MetricTypeHistogram:
		if histogram := metric.Histogram(); histogram.AggregationTemporality() == cumulative {
			histogram.SetAggregationTemporality(delta)
			histogram.DataPoints().RemoveIf(func(point pmetric.HistogramDataPoint) bool { return convert(s, of, point, explicit) })
			return histogram.DataPoints().Len() == 0
		}
	case pmetric.MetricTypeExponentialHistogram:
		if histogram := metric.ExponentialHistogram(); histogram.AggregationTemporality() == cumulative {
			histogram.SetAggregationTemporality(delta)
			histogram.DataPoints().RemoveIf(func(point pmetric.ExponentialHistogramDataPoint) bool {
				return convert(s, of, point, exponential)
			})
			return histogram.DataPoints().Len() == 0
		}
	case pmetric.MetricTypeEmpty, pmetric.MetricTypeGauge, pmetric.MetricTypeSummary:
	}
	return false
}

type point interface {
	Attributes() pcommon.Map
	StartTimestamp() pcommon.Timestamp
	SetStartTimestamp(pcommon.Timestamp)
	Timestamp() pcommon.Timestamp
	Flags() pmetric.DataPointFlags
}

// convert reports whether the point adds nothing: it came before, or has no value. less turns it into the
// difference to an earlier one and returns what it was; nil is none, and so is one that it cannot have followed.
func convert[P point](s *stage, of series.Describer, each P, less func(each P, earlier *Seen) Seen) bool {
	if each.Flags().NoRecordedValue() {
		return true
	}
	identity := of.Identity(each.Attributes())
	earlier, known := s.changed[identity]
	if !known {
		earlier, known = s.seen[identity]
	}
	start, now := each.StartTimestamp(), each.Timestamp()
	var reached Seen
	switch {
	case !known, start > earlier.Start && start >= earlier.Time:
		// The first point, or the first after a restart of the process.
		reached = less(each, nil)
	case now <= earlier.Time:
		// Sent again, or late.
		return true
	default:
		reached = less(each, &earlier)
		if each.StartTimestamp() <= earlier.Time {
			each.SetStartTimestamp(earlier.Time)
		}
	}
	reached.Start, reached.Time, reached.At = start, now, s.at
	s.changed[identity] = reached
	return false
}

func number(each pmetric.NumberDataPoint, earlier *Seen) Seen {
	if each.ValueType() == pmetric.NumberDataPointValueTypeInt {
		now := Seen{Int: each.IntValue(), Double: float64(each.IntValue()), Whole: true}
		// A smaller count is that of a process that restarted with the same start time.
		if earlier != nil && now.Double >= earlier.Double {
			if earlier.Whole {
				each.SetIntValue(now.Int - earlier.Int)
			} else {
				each.SetDoubleValue(now.Double - earlier.Double)
			}
		}
		return now
	}
	// Python's counter is whole until it is given a fraction.
	now := Seen{Double: each.DoubleValue()}
	if earlier != nil && now.Double >= earlier.Double {
		each.SetDoubleValue(now.Double - earlier.Double)
	}
	return now
}

func explicit(each pmetric.HistogramDataPoint, earlier *Seen) Seen {
	now := Seen{Count: each.Count(), Sum: each.Sum(), Bounds: each.ExplicitBounds().AsRaw(), Counts: each.BucketCounts().AsRaw()}
	if earlier == nil || now.Count < earlier.Count || !slices.Equal(now.Bounds, earlier.Bounds) || len(now.Counts) != len(earlier.Counts) {
		return now
	}
	counts := slices.Clone(now.Counts)
	for i := range counts {
		if counts[i] < earlier.Counts[i] {
			return now
		}
		counts[i] -= earlier.Counts[i]
	}
	each.BucketCounts().FromRaw(counts)
	each.SetCount(now.Count - earlier.Count)
	if each.HasSum() {
		each.SetSum(now.Sum - earlier.Sum)
	}
	// Those of all the time.
	each.RemoveMin()
	each.RemoveMax()
	return now
}

func exponential(each pmetric.ExponentialHistogramDataPoint, earlier *Seen) Seen {
	now := Seen{
		Count: each.Count(), Sum: each.Sum(), Scale: each.Scale(), Zero: each.ZeroCount(),
		Positive: series.BucketsOf(each.Positive()), Negative: series.BucketsOf(each.Negative()),
	}
	// The scale falls as values spread, and never rises in the life of a process.
	if earlier == nil || now.Count < earlier.Count || now.Zero < earlier.Zero || now.Scale > earlier.Scale {
		return now
	}
	steps := earlier.Scale - now.Scale
	positive, one := now.Positive.Less(earlier.Positive.Coarser(steps))
	negative, both := now.Negative.Less(earlier.Negative.Coarser(steps))
	if !one || !both {
		return now
	}
	positive.To(each.Positive())
	negative.To(each.Negative())
	each.SetZeroCount(now.Zero - earlier.Zero)
	each.SetCount(now.Count - earlier.Count)
	if each.HasSum() {
		each.SetSum(now.Sum - earlier.Sum)
	}
	each.RemoveMin()
	each.RemoveMax()
	return now
}

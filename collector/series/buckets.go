package series

import "go.opentelemetry.io/collector/pdata/pmetric"

// Buckets of one side of an exponential histogram: counts by index, at a scale.
type Buckets map[int32]uint64

// BucketsOf reads a side of a histogram.
func BucketsOf(side pmetric.ExponentialHistogramDataPointBuckets) Buckets {
	found := Buckets{}
	for i, count := range side.BucketCounts().All() {
		if count > 0 {
			found[side.Offset()+int32(i)] = count
		}
	}
	return found
}

// Coarser returns them at a scale that is lower by so much: each step joins two neighbours (OpenTelemetry
// specification, Metrics data model, Exponential Scale).
func (b Buckets) Coarser(steps int32) Buckets {
	if steps <= 0 {
		return b
	}
	found := make(Buckets, len(b))
	for index, count := range b {
		found[index>>min(steps, 31)] += count
	}
	return found
}

// Add returns the counts of both.
func (b Buckets) Add(other Buckets) Buckets {
	found := make(Buckets, len(b))
	for index, count := range b {
		found[index] = count
	}
	for index, count := range other {
		found[index] += count
	}
	return found
}

// Less returns the counts without those of an earlier point, and whether that was its earlier point.
func (b Buckets) Less(earlier Buckets) (Buckets, bool) {
	found := make(Buckets, len(b))
	for index, count := range b {
		found[index] = count
	}
	for index, count := range earlier {
		if found[index] < count {
			return nil, false
		}
		found[index] -= count
		if found[index] == 0 {
			delete(found, index)
		}
	}
	return found, true
}

// How many buckets a side may have: what SDKs keep to (OpenTelemetry specification, MaxSize of the base-2
// exponential histogram).
const maxSize = 160

// Excess is by how many steps the scale must fall for them to be so few.
func (b Buckets) Excess() int32 {
	if len(b) == 0 {
		return 0
	}
	low, high := b.span()
	steps := int32(0)
	for int64(high>>steps)-int64(low>>steps) >= maxSize {
		steps++
	}
	return steps
}

func (b Buckets) span() (int32, int32) {
	first := true
	var low, high int32
	for index := range b {
		if first || index < low {
			low = index
		}
		if first || index > high {
			high = index
		}
		first = false
	}
	return low, high
}

// To writes them into a side of a histogram.
func (b Buckets) To(side pmetric.ExponentialHistogramDataPointBuckets) {
	if len(b) == 0 {
		side.SetOffset(0)
		side.BucketCounts().FromRaw(nil)
		return
	}
	low, high := b.span()
	counts := make([]uint64, int64(high)-int64(low)+1)
	for index, count := range b {
		counts[int64(index)-int64(low)] = count
	}
	side.SetOffset(low)
	side.BucketCounts().FromRaw(counts)
}

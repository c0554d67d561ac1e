// Package series holds what the processors below it have in common: which time series a metric point belongs to.
package series

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"slices"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// Identity of a series: a hash of resource, scope, metric and attributes.
type Identity [16]byte

// Describer hashes what the points of one metric have in common once.
type Describer struct{ common []byte }

// Of describes the series of a metric.
func Of(resource pcommon.Resource, scope pcommon.InstrumentationScope, metric pmetric.Metric) Describer {
	h := sha256.New()
	putMap(h, resource.Attributes())
	put(h, scope.Name())
	put(h, scope.Version())
	putMap(h, scope.Attributes())
	put(h, metric.Name())
	put(h, metric.Unit())
	put(h, metric.Type().String())
	if metric.Type() == pmetric.MetricTypeSum && metric.Sum().IsMonotonic() {
		put(h, "monotonic")
	}
	return Describer{h.Sum(nil)}
}

// Identity of the series of points with these attributes.
func (d Describer) Identity(attributes pcommon.Map) Identity {
	h := sha256.New()
	h.Write(d.common)
	putMap(h, attributes)
	return Identity(h.Sum(nil)[:len(Identity{})])
}

func put(h hash.Hash, text string) {
	// With its length: the texts a, bc are not ab, c.
	_ = binary.Write(h, binary.LittleEndian, uint32(len(text)))
	h.Write([]byte(text))
}

func putMap(h hash.Hash, attributes pcommon.Map) {
	keys := make([]string, 0, attributes.Len())
	for key := range attributes.All() {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		value, _ := attributes.Get(key)
		put(h, key)
		put(h, value.AsString())
	}
	put(h, "")
}

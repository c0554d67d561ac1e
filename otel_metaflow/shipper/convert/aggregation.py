"""Aggregates measurements: a sum, a histogram with explicit bounds, or one with exponential buckets.

See https://opentelemetry.io/docs/specs/otel/metrics/data-model/; tests/test_aggregation.py compares it with the SDK.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from bisect import bisect_left
from typing import Dict, Sequence, Union

from otel_metaflow.shipper.telemetry import DataPoint

Number = Union[int, float]
# Defaults of the specification for base-2 exponential buckets.
_MAX_BUCKETS = 160
_MAX_SCALE = 20


class Aggregation(ABC):
    """Aggregates measurements, none of them negative, to a data point."""

    @abstractmethod
    def add(self, value: Number) -> None:
        """Add a measurement."""

    @abstractmethod
    def point(self) -> DataPoint:
        """The data point, without times and attributes."""


class Sum(Aggregation):
    """The sum of integers."""

    def __init__(self) -> None:
        self._sum: int = 0

    def add(self, value: Number) -> None:
        """Add a measurement."""
        self._sum += int(value)

    def point(self) -> DataPoint:
        """The data point."""
        return {"asInt": self._sum}


class _Distribution(Aggregation):
    """The common part of histograms."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = 0.0
        self._min, self._max = math.inf, -math.inf

    def add(self, value: Number) -> None:
        """Add a measurement."""
        self._count += 1
        self._sum += value
        self._min, self._max = min(self._min, value), max(self._max, value)

    def point(self) -> DataPoint:
        """The data point."""
        return {"count": self._count, "sum": float(self._sum), "min": float(self._min), "max": float(self._max)}


class Histogram(_Distribution):
    """Counts between explicit bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__()
        self._bounds = [float(bound) for bound in bounds]
        self._counts = [0] * (len(bounds) + 1)

    def add(self, value: Number) -> None:
        """Add a measurement; a bound belongs to the bucket below it."""
        super().add(value)
        self._counts[bisect_left(self._bounds, value)] += 1

    def point(self) -> DataPoint:
        """The data point."""
        return {**super().point(), "bucketCounts": list(self._counts), "explicitBounds": self._bounds}


class ExponentialHistogram(_Distribution):
    """Counts in buckets that grow by a constant factor, which is as small as the number of buckets allows."""

    def __init__(self) -> None:
        super().__init__()
        self._scale = _MAX_SCALE
        self._zeros = 0
        self._counts: Dict[int, int] = {}

    def add(self, value: Number) -> None:
        """Add a measurement."""
        super().add(value)
        if not value:
            self._zeros += 1
            return
        index = _bucket(value, self._scale)
        low, high = min(index, *self._counts, index), max(index, *self._counts, index)
        coarser = 0
        while (high >> coarser) - (low >> coarser) >= _MAX_BUCKETS:
            coarser += 1
        if coarser:
            self._scale -= coarser
            before, self._counts = self._counts, {}
            for old, count in before.items():
                self._counts[old >> coarser] = self._counts.get(old >> coarser, 0) + count
            index >>= coarser
        self._counts[index] = self._counts.get(index, 0) + 1

    def point(self) -> DataPoint:
        """The data point."""
        low, high = min(self._counts, default=0), max(self._counts, default=-1)
        return {
            **super().point(),
            "scale": self._scale if self._counts else 0,
            "zeroCount": self._zeros,
            "positive": {"offset": low, "bucketCounts": [self._counts.get(i, 0) for i in range(low, high + 1)]},
            "negative": {"offset": 0, "bucketCounts": []},
        }


def _bucket(value: Number, scale: int) -> int:
    """The index of the bucket of a positive value: it is above base ** index and at most base ** (index + 1)."""
    mantissa, exponent = math.frexp(max(value, sys.float_info.min))
    is_power = mantissa == 0.5  # noqa: PLR2004 - of two, which is exact: a bound belongs to the bucket below it
    if scale <= 0:
        return (exponent - 1 - is_power) >> -scale
    if is_power:
        return ((exponent - 1) << scale) - 1
    return math.floor(math.log(value) * math.ldexp(1 / math.log(2), scale))

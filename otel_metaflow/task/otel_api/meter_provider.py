"""The meter provider, as far as only the API is needed.

Instruments are the API's own proxies. At first, each has an `_Unused` behind it, which the first measurement replaces
by an instrument of the SDK. So a library that creates counters when it is imported costs nothing, and a forked child
starts from zero instead of reporting its parent's counts.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Iterator, Optional

from opentelemetry import metrics
from opentelemetry.environment_variables import OTEL_PYTHON_METER_PROVIDER
from opentelemetry.metrics import _internal as internal

from otel_metaflow.core.guard import contain, guarded, seam
from otel_metaflow.task.otel_api import api_seams, attempt_recorder
from otel_metaflow.task.otel_api.replaceable_once import ReplaceableOnce

if TYPE_CHECKING:
    from otel_metaflow.task.otel_api.sdk_metrics import JournalMetrics


class _Unused:
    """The implementation of an instrument that has not been used: any of its methods loads the SDK."""

    def __init__(self, meter: AttemptMeter, instrument: Any) -> None:
        self._meter = meter
        self._instrument = instrument

    def __getattr__(self, method: str) -> Any:
        self._meter.realize(self._instrument)
        real = self._instrument._real_instrument
        return _nothing if real is self or real is None else getattr(real, method)


def _nothing(*_: Any, **__: Any) -> None:
    """A measurement with an instrument that the SDK rejected; without a provider, the API rejects none."""


class AttemptMeter(internal._ProxyMeter):
    """A meter whose instruments use the provider that is current at each call."""

    def __init__(self, name: str, version: Optional[str], schema_url: Optional[str], attributes: Any) -> None:
        super().__init__(name, version=version, schema_url=schema_url)
        self._arguments = name, version, schema_url, attributes

    @seam("measurements of user code")
    def realize(self, instrument: Any) -> None:
        """Put an instrument of the SDK behind `instrument`."""
        provider = PROVIDER.real
        instrument.on_meter_set(provider.get_meter(*self._arguments))

    def reset(self) -> None:
        """Start afresh in a forked child; observable instruments are reported by its parent."""
        self._lock = threading.Lock()
        self._instruments = [each for each in self._instruments if not isinstance(each, metrics.Asynchronous)]
        for instrument in self._instruments:
            self._back(instrument)

    def pending(self) -> Iterator[Any]:
        """The observable instruments that have no instrument of the SDK yet."""
        for instrument in self._instruments:
            if isinstance(getattr(instrument, "_real_instrument", None), _Unused) and isinstance(
                instrument, metrics.Asynchronous
            ):
                yield instrument

    def _back(self, instrument: Any) -> Any:
        """The instrument with an `_Unused` behind it, or unchanged if the user's provider has created it."""
        if self._real_meter is None:
            instrument._real_instrument = _Unused(self, instrument)
        return instrument

    def create_counter(self, *args: Any, **kwargs: Any) -> Any:
        """As the API defines it."""
        return self._back(super().create_counter(*args, **kwargs))

    def create_up_down_counter(self, *args: Any, **kwargs: Any) -> Any:
        """As the API defines it."""
        return self._back(super().create_up_down_counter(*args, **kwargs))

    def create_histogram(self, *args: Any, **kwargs: Any) -> Any:
        """As the API defines it."""
        return self._back(super().create_histogram(*args, **kwargs))

    def create_gauge(self, *args: Any, **kwargs: Any) -> Any:
        """As the API defines it."""
        return self._back(super().create_gauge(*args, **kwargs))

    def create_observable_counter(self, *args: Any, **kwargs: Any) -> Any:
        """As the API defines it."""
        return self._back(super().create_observable_counter(*args, **kwargs))

    def create_observable_up_down_counter(self, *args: Any, **kwargs: Any) -> Any:
        """As the API defines it."""
        return self._back(super().create_observable_up_down_counter(*args, **kwargs))

    def create_observable_gauge(self, *args: Any, **kwargs: Any) -> Any:
        """As the API defines it."""
        return self._back(super().create_observable_gauge(*args, **kwargs))


class AttemptMeterProvider(internal._ProxyMeterProvider):
    """Looks like the API's proxy, and records to the attempt's journal."""

    def __init__(self) -> None:
        super().__init__()
        self._journal: Optional[JournalMetrics] = None
        self._broken: Optional[metrics.MeterProvider] = None
        self._flushed = False
        self._making = threading.RLock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def get_meter(
        self, name: str, version: Optional[str] = None, schema_url: Optional[str] = None, attributes: Any = None
    ) -> metrics.Meter:
        """A meter that uses the provider that is current at each call."""
        with self._lock:
            real = self._real_meter_provider
            if real is not None:
                return real.get_meter(name, version, schema_url, attributes)
            meter = AttemptMeter(name, version, schema_url, attributes)
            self._meters.append(meter)
            return meter

    def on_set_meter_provider(self, meter_provider: metrics.MeterProvider) -> None:
        """User code sets its own provider: write what was measured so far."""
        self._write()
        super().on_set_meter_provider(meter_provider)

    @property
    def real(self) -> metrics.MeterProvider:
        """The SDK's provider, created with the first measurement."""
        with self._making:
            if self._journal is None and self._broken is None and attempt_recorder.current is not None:
                try:
                    from otel_metaflow.task.otel_api import sdk_metrics

                    self._journal = sdk_metrics.JournalMetrics(attempt_recorder.current, self.close)
                except Exception as error:  # noqa: BLE001 - a variable that the SDK rejects: the step goes on
                    self._broken = metrics.NoOpMeterProvider()
                    contain(error)
            if self._journal is not None:
                return self._journal.provider
            return self._broken or metrics.NoOpMeterProvider()

    def force_flush(self, timeout_millis: float = 10_000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Write what was measured so far, before the attempt's end."""
        self._write()
        return True

    def close(self) -> None:
        """Write what was measured, once, at the end of this process or of its attempt."""
        if not self._flushed:
            self._flushed = True
            self._write()

    @guarded
    def _write(self) -> None:
        if self._real_meter_provider is not None:
            return
        for meter in list(self._meters):
            for instrument in meter.pending():  # type: ignore[attr-defined]
                meter.realize(instrument)  # type: ignore[attr-defined]
        if self._journal is not None:
            self._journal.write()

    def _after_fork(self) -> None:
        """Start afresh in a forked child."""
        self._journal = None
        self._flushed = False
        self._lock, self._making = threading.Lock(), threading.RLock()
        if self._real_meter_provider is None:
            for meter in self._meters:
                meter.reset()  # type: ignore[attr-defined]


PROVIDER = AttemptMeterProvider()


class _MeterOnce(ReplaceableOnce):
    """Notifies our provider of the one that replaces it, for the meters that it has already returned."""

    def do_once(self, func: Any) -> bool:
        """Run `func` unless the user's provider is set; return whether it ran."""
        ran = super().do_once(func)
        current = internal._METER_PROVIDER
        if ran and current is not None and current is not PROVIDER:
            PROVIDER.on_set_meter_provider(current)
        return ran


def provider() -> AttemptMeterProvider:
    """The entry point for OTEL_PYTHON_METER_PROVIDER."""
    internal._METER_PROVIDER_SET_ONCE = _MeterOnce(internal, "_METER_PROVIDER", PROVIDER)
    return PROVIDER


def install() -> None:
    """Set our provider, unless another one is set."""
    if attempt_recorder.current is not None:
        meter = internal._ProxyMeter("verify")
        proxies = internal._ProxyMeterProvider(), meter, meter.create_counter("verify")
        api_seams.verify(internal, api_seams.METRICS, *proxies)
        attempt_recorder.current.at_end(PROVIDER.close)
        if internal._METER_PROVIDER is None and not os.environ.get(OTEL_PYTHON_METER_PROVIDER):
            metrics.set_meter_provider(provider())

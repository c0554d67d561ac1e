"""Cards of a step that failed: Metaflow makes cards of those that succeeded only."""

from __future__ import annotations

from typing import Any, Iterable

_TYPE = "otel"


def render_failed(decorators: Iterable[Any]) -> None:
    """Make the cards of type otel among the step's decorators, as Metaflow would have had the step not failed.

    By the call of metaflow/plugins/cards/card_decorator.py, CardDecorator.task_finished.
    """
    for decorator in decorators:
        if decorator.name == "card" and decorator.attributes.get("type") == _TYPE:
            decorator.card_creator.create(
                mode="render",
                final=True,
                card_uuid=decorator._card_uuid,  # noqa: SLF001 - no public seam; tests/test_card.py would notice
                user_set_card_id=decorator._user_set_card_id,  # noqa: SLF001
                runtime_card=False,
                decorator_attributes=decorator.attributes,
                card_options=decorator.card_options,
                logger=decorator._logger,  # noqa: SLF001
            )

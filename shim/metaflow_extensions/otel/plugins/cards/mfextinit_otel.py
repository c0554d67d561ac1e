"""`@card(type="otel")`: the page of the run, as a Metaflow card.

Metaflow imports this module in every process, of every flow (metaflow/plugins/cards/card_modules/__init__.py), so it
holds no more than the class; what draws is imported where a card is made, in a process of its own.
"""

from metaflow.plugins.cards.card_modules.card import MetaflowCard


class OtelCard(MetaflowCard):
    """
    The run so far, on the last step the whole run: its shape, what failed first, where the time went, its logs.

    It is drawn from the journals of `@otel` on the machine where the card is made.
    """

    type = "otel"

    def __init__(self, options=None, components=(), graph=None, flow=None):
        pass

    def render(self, task):
        try:
            from otel_metaflow.viewer import card
        except ImportError:
            return "<p>This card needs otel-metaflow where the task runs: pip install otel-metaflow</p>"
        return card.html(task.pathspec)


CARDS = [OtelCard]

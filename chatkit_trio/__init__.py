"""A ChatKit server on Trio: however a stream ends, the partial answer is kept.

Four questions place any line of this package. Is it a word of the protocol? `icons`, `actions`,
`errors`, `widgets`, `types` (and the storage contract, `store`). Can it be decided without
waiting? `_turn`, `_wire`, `_widget_diff`. Does it wait? `_stream`, `_requests`, `server`. Does it
touch the outside? `stores`, `agents`, `web`, `testing`, `cli`. Lower layers never import higher
ones; `tests/test_layout.py` proves it.
"""

__version__ = "0.1.0"

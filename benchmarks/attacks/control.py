"""No attack: what a bystander feels of a server that is left alone."""

from __future__ import annotations

import trio

from benchmarks.attacks import Attack, Outcome, Victim

_SECONDS = 5.0


async def _nothing(victim: Victim) -> Outcome:
    await trio.sleep(_SECONDS)
    status, _ = await victim.ask("GET", "/healthz")
    return Outcome(1, int(status == 200))


ATTACKS = (Attack(what="nothing, for comparison", fault="", run=_nothing),)

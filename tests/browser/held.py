"""Answers of a served app that wait until a test lets them go on."""

from __future__ import annotations

import trio


class Held:
    """The answers that wait."""

    def __init__(self) -> None:
        self._answers = trio.lowlevel.ParkingLot()

    async def wait(self) -> None:
        await self._answers.park()

    async def let_go(self) -> str:
        """Let them go on, as soon as there is one."""
        while not self._answers:  # noqa: ASYNC110
            await trio.sleep(0.01)
        self._answers.unpark_all()
        return "gone on"

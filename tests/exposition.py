"""Reading what `/metrics` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


class Exposition:
    """The samples of one scrape."""

    def __init__(self, text: bytes) -> None:
        self.samples: list[Sample] = [
            sample
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
        ]

    def __getitem__(self, name: str) -> float:
        """Return the value of the only sample of a name."""
        (value,) = self.of(name).values()
        return value

    def of(self, name: str) -> dict[Any, float]:
        """Return the values of a name by their one label (or several, as a tuple)."""
        found = {_key(sample.labels): sample.value for sample in self._named(name)}
        assert found, f"there is no {name}"
        return found

    def positive(self, name: str) -> dict[Any, float]:
        """Return those that aren't 0."""
        return {key: value for key, value in self.of(name).items() if value}

    def _named(self, name: str) -> Iterator[Sample]:
        return (sample for sample in self.samples if sample.name == name)


def _key(labels: dict[str, str]) -> Any:
    values = tuple(labels.values())
    return values[0] if len(values) == 1 else values

"""Tools for testing servers and stores built with chatkit_trio."""

import pytest

# The kit's asserts explain themselves only if pytest rewrites them, before the first import.
pytest.register_assert_rewrite("chatkit_trio.testing._store_conformance")

from ._store_conformance import StoreConformance  # noqa: E402

__all__ = ["StoreConformance"]

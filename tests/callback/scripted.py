"""A diagnostic whose verdicts are told to it, so that what is made of them can be known exactly."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_diagnostics.callback import DiagnosticCallback
from lightning_diagnostics.callback.trainer import log_step
from lightning_diagnostics.findings import Diagnosis, Severity, Verdict, limit, rule
from tests.patients import Student


@dataclass(frozen=True)
class Limits:
    """One limit, which no verdict here depends on."""

    number: int = limit(5, key="some-illness.number", meaning="a number", source="none", low=1)


@rule(code="TST101", name="some-illness", severities=tuple(Severity))
def some_illness(measured: Verdict, limits: Limits) -> Verdict:
    """Something is wrong.

    ## What it means
    The verdict is the measurement.

    ## Why it matters
    The tests know it exactly.

    ## What to do
    Nothing.

    ## When it is wrong
    Never.
    """
    del limits
    return measured


@rule(code="TST901", name="some-blindness", severities=(Severity.INFO,))
def some_blindness(measured: object, limits: Limits) -> Verdict:
    """Something cannot be seen.

    ## What it means
    It cannot be seen.

    ## Why it matters
    It does not.

    ## What to do
    Nothing.

    ## When it is wrong
    Never.
    """
    del measured, limits
    return None


Act = Callable[["Scripted", Trainer, int], Any]


class Scripted(DiagnosticCallback):
    """Plays a script: at a training step (counted over the run) the acts that stand there, in their order."""

    rules = (some_illness,)
    blind_rule = some_blindness
    default_limits = Limits()

    def __init__(
        self,
        script: Mapping[int, Sequence[Act]],
        *,
        watches: str = "a script",
        undecided: Sequence[str] = (),
        **more: Any,
    ) -> None:
        super().__init__(**{"strict": True, **more})
        self.script = script
        self.watches = watches
        self.left_open = list(undecided)

    @override
    def watching(self, trainer: Trainer, pl_module: LightningModule) -> str:
        return self.watches

    @override
    def undecided(self) -> list[str]:
        return self.left_open

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        step = log_step(trainer)
        for act in self.script.get(step, ()):
            act(self, trainer, step)


class Other(Scripted):
    """Another diagnostic of the same run."""


class Reader(Student):
    """Reads something at every training step, after the diagnostics had their turn.

    Args:
        read: Called with the Trainer; what it gives is kept in ``self.seen``, one item a step.
    """

    def __init__(self, read: Callable[[Trainer], Any]) -> None:
        super().__init__()
        self.read = read
        self.seen: list[Any] = []

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        self.seen.append(self.read(self.trainer))
        return super().training_step(batch, batch_idx)


def diagnose(severity: Severity = Severity.WARNING, **more: Any) -> Act:
    """The rule finds something; further fields of the diagnosis by name."""
    words = {"where": "model.a", "first_step": 1, "message": "It is sick.", "remedy": "mend it.", "evidence": {"n": 1}}
    diagnosis = Diagnosis(severity, **{**words, **more})
    return lambda callback, trainer, step: callback.judge(trainer, some_illness, diagnosis, step=step)


def still(callback: Scripted, trainer: Trainer, step: int) -> None:
    """All findings still hold."""
    for finding in callback.findings:
        callback.still(finding, step=step)


def close(callback: Scripted, trainer: Trainer, step: int) -> None:
    """No finding holds any more."""
    for finding in callback.findings:
        callback.close(finding, step=step)


def blind(callback: Scripted, trainer: Trainer, step: int) -> None:
    """A note that something cannot be seen."""
    callback.note_blind(trainer, "Part of it cannot be seen.", "look elsewhere.")

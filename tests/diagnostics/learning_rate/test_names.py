"""What optimizers and groups are called, beside Lightning's ``LearningRateMonitor``, and whose beta counts."""

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_diagnostics.diagnostics.learning_rate.names import beta2, group_names, optimizer_names
from tests.helpers import fit, trainer
from tests.patients import Student


def weights() -> list[Parameter]:
    return [Parameter(torch.zeros(3))]


def groups(*names: str | None) -> list[dict[str, Any]]:
    """Groups of parameters with these names."""
    return [{"params": weights(), **({} if name is None else {"name": name})} for name in names]


# Names.


def test_an_optimizer_is_called_by_its_class_and_the_next_of_the_class_has_a_number() -> None:
    sgd, adam = torch.optim.SGD, torch.optim.Adam
    made = [kind(weights(), lr=0.1) for kind in (adam, sgd, adam, adam, sgd)]
    assert optimizer_names(made) == ["Adam", "SGD", "Adam-1", "Adam-2", "SGD-1"]
    assert optimizer_names([]) == []


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ((None,), ["Adam"]),
        (("head",), ["Adam/head"]),
        ((None, None, None), ["Adam/pg1", "Adam/pg2", "Adam/pg3"]),
        (("body", "head"), ["Adam/body", "Adam/head"]),
        (("body", None), ["Adam/body", "Adam/pg2"]),
        (("", "head"), ["Adam/pg1", "Adam/head"]),
        (("same", "same", "other"), ["Adam/pg1", "Adam/pg2", "Adam/other"]),
        ((), []),
    ],
)
def test_a_group_is_called_as_the_program_does_or_by_its_place(given: tuple[str | None, ...], names: list[str]) -> None:
    assert group_names("Adam", groups(*given)) == names


class SeveralGroups(Student):
    """By hand, with three optimizers whose groups are named and not."""

    def __init__(self) -> None:
        super().__init__(manual=True)

    def configure_optimizers(self) -> Any:
        first, norm, last = (list(self.net[place].parameters()) for place in (0, 1, 4))
        named = [{"params": first[:1], "name": "weight"}, {"params": first[1:], "name": "bias"}]
        return [
            torch.optim.Adam(named, lr=0.1),
            torch.optim.Adam([{"params": norm[:1]}, {"params": norm[1:]}], lr=0.2),
            torch.optim.SGD([{"params": last, "name": "head"}], lr=0.3),
        ]


@pytest.mark.parametrize("kind", [Student, SeveralGroups])
def test_names_are_those_of_the_monitor_of_lightning(kind: Any, tmp_path: Any) -> None:
    monitor, module = LearningRateMonitor(), kind()
    run = fit(trainer(monitor, max_epochs=1, logger=CSVLogger(tmp_path)), module)
    ours = zip(optimizer_names(run.optimizers), run.optimizers, strict=True)
    every = [each for name, optimizer in ours for each in group_names(name, optimizer.param_groups)]
    assert [f"lr-{name}" for name in every] == list(monitor.lrs)
    assert len(every) == (5 if kind is SeveralGroups else 1)


# The beta that tells how long the automatic warmup is.

KNOWN: dict[type[Optimizer], float | None] = {
    torch.optim.Adam: 0.999,
    torch.optim.AdamW: 0.999,
    torch.optim.NAdam: 0.999,
    torch.optim.RAdam: None,  # warms up by itself
    torch.optim.Adamax: None,  # its second beta is of the largest gradient
    torch.optim.SGD: None,
    torch.optim.ASGD: None,
    torch.optim.Adagrad: None,
    torch.optim.Adadelta: None,
    torch.optim.Adafactor: None,
    torch.optim.RMSprop: None,
    torch.optim.Rprop: None,
    torch.optim.LBFGS: None,
    torch.optim.SparseAdam: 0.999,
}


@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.__name__)
def test_the_beta_of_the_optimizers_of_torch(kind: Any) -> None:
    optimizer = kind(weights(), lr=0.1)
    assert beta2(optimizer, optimizer.param_groups[0]) == KNOWN[kind]


def _named(name: str, **group: Any) -> Optimizer:
    """An optimizer of somebody's making, of a class of that name."""
    kind: Any = type(name, (torch.optim.SGD,), {})
    optimizer = kind(weights(), lr=0.1)
    optimizer.param_groups[0].update(group)
    return optimizer


@pytest.mark.parametrize(
    ("name", "betas", "expected"),
    [
        ("Adam8bit", (0.9, 0.98), 0.98),
        ("FusedAdam", [0.9, 0.95], 0.95),
        ("Lamb", (0.9, 0.999), 0.999),
        ("MyAdam", (torch.tensor(0.9), torch.tensor(0.5)), 0.5),
        ("Lion", (0.9, 0.99), None),
        ("Lion8bit", (0.9, 0.99), None),
        ("RAdamScheduleFree", (0.9, 0.999), None),
        ("Adan", (0.98, 0.92, 0.99), None),
        ("Adan", (0.98, 0.92), None),
        ("MyAdam", (0.9, 0.0), None),
        ("MyAdam", (0.9, 1.0), None),
        ("MyAdam", (0.9,), None),
        ("MyAdam", 0.999, None),
        ("MyAdam", None, None),
    ],
)
def test_the_beta_of_optimizers_of_other_packages(name: str, betas: Any, expected: float | None) -> None:
    optimizer = _named(name, betas=betas)
    found = beta2(optimizer, optimizer.param_groups[0])
    assert found == expected
    assert found is None or type(found) is float


def test_each_group_has_a_beta_of_its_own() -> None:
    optimizer = torch.optim.AdamW([{"params": weights()}, {"params": weights(), "betas": (0.9, 0.95)}], lr=0.1)
    assert [beta2(optimizer, group) for group in optimizer.param_groups] == [0.999, 0.95]

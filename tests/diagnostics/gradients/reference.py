"""The numbers of `GradientNormMonitor` once more: float64 twins, trained by plain autograd without Lightning."""

import copy
import math
import pickle
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from lightning_diagnostics import Finding, GradientNormMonitor, Severity
from tests import helpers

ROWS = 8
"""Samples in a batch."""

Batch = Sequence[Tensor]
Gradients = dict[str, Tensor]
Clip = Callable[[Gradients], Gradients]


# Programs.


def data(batches: int = 20, *, rows: int = ROWS) -> list[Batch]:
    """A regression whose norms differ from step to step, and with inputs that are zero, so that gradients are, too."""
    draw = torch.Generator().manual_seed(4)
    found: list[Batch] = []
    for index in range(batches):
        inputs, targets = torch.randn(rows, 6, generator=draw), torch.randn(rows, 3, generator=draw)
        inputs[:, : index // 2 % 4] = 0
        found.append([inputs, targets * (1 + index // 6 % 3)])
    return found


def loader(batches: Sequence[Batch]) -> DataLoader:
    """Those batches, in their order."""
    tensors = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    return DataLoader(TensorDataset(*tensors), batch_size=len(batches[0][0]), shuffle=False)


def network(inputs: int = 6, outputs: int = 3) -> nn.Sequential:
    """Smooth, so that float32 and float64 take the same way."""
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, outputs))


class Regression(LightningModule):
    """What is trained: its `loss` is what both sides compute, its `optimizers_of` what both move weights with."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = self.build()

    def build(self) -> nn.Module:
        return network()

    def loss(self, batch: Batch) -> Tensor:
        return functional.mse_loss(self.net(batch[0]), batch[1])

    def optimizer(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return self.optimizer()


# The reference.


@dataclass
class Step:
    """One optimizer step as it should be measured.

    Attributes:
        optimizer: Its name.
        at: On the axis of ``self.log``.
        before: The norm before clipping; None where it cannot be known.
        after: The norm of what the optimizer was given; None where it cannot be known.
        layers: The norm by layer, before clipping.
        zeros: By layer: elements of the gradients that are zero, and all of them.
        ratios: By layer: the norm of the update over that of the weights.
        rate: The largest learning rate.
        scaled: Whether a gradient scaler is at work.
        skipped: Whether it skipped this step.
        first: The squared norm of a small batch, its samples, and those of the big one.
    """

    optimizer: str
    at: int
    before: float | None
    after: float | None
    layers: dict[str, float]
    zeros: dict[str, tuple[int, int]]
    ratios: dict[str, float]
    rate: float
    scaled: bool = False
    skipped: bool = False
    first: tuple[float, int, int] | None = None

    @property
    def norm(self) -> float:
        """What moments are of."""
        norm = self.before if self.before is not None else self.after
        return math.nan if norm is None else norm

    @property
    def factor(self) -> float | None:
        """What clipping left."""
        if self.before is None or self.after is None or not math.isfinite(self.before):
            return None
        return self.after / self.before if self.before else 1.0


def norm_of(tensors: Sequence[Tensor]) -> float:
    """The L2 norm of all elements, in float64 and without a fused call."""
    total = 0.0
    for tensor in tensors:
        whole = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
        real = torch.view_as_real(whole) if whole.is_complex() else whole
        total += float((real.double() ** 2).sum())
    return math.sqrt(total)


def layers_of(gradients: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """By the module that has the parameter."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, gradient in gradients.items():
        found.setdefault(name.rpartition(".")[0], {})[name] = gradient
    return found


def zeros_of(tensors: Sequence[Tensor]) -> tuple[int, int]:
    """Elements that are zero, and all of them; a complex one has two."""
    whole = [tensor.detach().to_dense() if tensor.is_sparse else tensor.detach() for tensor in tensors]
    real = [torch.view_as_real(each) if each.is_complex() else each for each in whole]
    return sum(int((each == 0).sum()) for each in real), sum(each.numel() for each in real)


def ratios_of(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    """Update over weight, by layer, of the weights of two dimensions or more."""
    found: dict[str, float] = {}
    for layer, weights in layers_of(before).items():
        moved = [name for name, each in weights.items() if each.dim() >= 2 and norm_of([each]) > 1e-8]
        if moved:
            change = [after[name] - weights[name] for name in moved]
            found[layer] = norm_of(change) / norm_of([weights[name] for name in moved])
    return found


def by_norm(limit: float) -> Clip:
    """Clipping as by ``torch.nn.utils.clip_grad_norm_``."""

    def clip(gradients: Gradients) -> Gradients:
        factor = min(1.0, limit / (norm_of(list(gradients.values())) + 1e-6))
        return {name: gradient * factor for name, gradient in gradients.items()}

    return clip


def by_value(limit: float) -> Clip:
    """Clipping of every element."""
    return lambda gradients: {name: gradient.clamp(-limit, limit) for name, gradient in gradients.items()}


def times(factor: float) -> Clip:
    """Every gradient multiplied."""
    return lambda gradients: {name: gradient * factor for name, gradient in gradients.items()}


class Twin:
    """A float64 copy of a module before it is trained.

    Args:
        module: It.
        optimizers: By name; made of the copy.
    """

    def __init__(self, module: LightningModule, optimizers: Callable[[Any], dict[str, Optimizer]]) -> None:
        self.module: Any = copy.deepcopy(module).double()
        for parameter in self.module.parameters():
            if parameter.is_complex():
                parameter.data = parameter.data.to(torch.complex128)
        self.optimizers = optimizers(self.module)
        self.steps: list[Step] = []

    def batches(self, batches: Sequence[Batch]) -> Iterator[tuple[int, Batch]]:
        """In float64."""
        for index, batch in enumerate(batches):
            yield index, [each.double() if each.is_floating_point() else each for each in batch]

    def gradients(self, loss: Tensor) -> Gradients:
        """Of every parameter that has one."""
        named = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        return {name: each for name, each in zip(named, found, strict=True) if each is not None}

    def step(
        self,
        optimizer: str,
        gradients: Gradients,
        *,
        at: int,
        clip: Clip | None = None,
        known: bool = True,
        first: tuple[float, int, int] | None = None,
        closure: Callable[[], Any] | None = None,
    ) -> Step:
        """Clip, move the weights, and write down what should have been measured.

        Args:
            optimizer: Its name.
            gradients: Of the whole model, or more.
            at: The step on the axis of ``self.log``.
            clip: What is done to the gradients first.
            known: Whether the norm before clipping can be known; else all is of what the optimizer is given.
            first: Of a small batch.
            closure: What the optimizer evaluates again; then nothing is known of the norm after clipping.
        """
        moves = self.optimizers[optimizer]
        names = {id(p): name for name, p in self.module.named_parameters()}
        own = {names[id(p)]: p for group in moves.param_groups for p in group["params"]}
        plain = {name: gradients[name] for name in own if name in gradients}
        given = clip(plain) if clip is not None else plain
        seen = plain if known else given
        weights = {name: p.detach().clone() for name, p in own.items() if name in plain}
        rate = max(float(group["lr"]) for group in moves.param_groups)
        for name, p in own.items():
            p.grad = given[name].clone() if name in given else None
        moves.step() if closure is None else moves.step(closure)
        for p in own.values():
            p.grad = None
        made = Step(
            optimizer,
            at,
            norm_of(list(plain.values())) if known else None,
            norm_of(list(given.values())) if closure is None else None,
            {layer: norm_of(list(each.values())) for layer, each in layers_of(seen).items()},
            {layer: zeros_of(list(each.values())) for layer, each in layers_of(seen).items()},
            ratios_of(weights, {name: own[name].detach() for name in weights}),
            rate,
            first=first,
        )
        self.steps.append(made)
        return made


def add(one: Gradients, other: Gradients, times: float = 1.0) -> Gradients:
    """The sum of gradients, of which either may lack some."""
    found = dict(one)
    for name, gradient in other.items():
        found[name] = found[name] + times * gradient if name in found else times * gradient
    return found


# What should be drawn.

Curves = dict[str, dict[int, float]]


def curves(steps: Sequence[Step], *, window: int, drawn: Mapping[str, Collection[int]]) -> Curves:
    """Every curve of these steps at the steps that are drawn; what should not be drawn is left out.

    Args:
        steps: Of all optimizers, in their order.
        window: Of the monitor.
        drawn: By optimizer: steps on the axis of ``self.log``.
    """
    found: Curves = {}
    for name in dict.fromkeys(step.optimizer for step in steps):
        own = [step for step in steps if step.optimizer == name]
        since = 0
        for index, step in enumerate(own):
            first_of_batch = index == 0 or own[index - 1].at != step.at
            if step.at not in drawn[name] or not first_of_batch or step.skipped:
                continue
            largest = [each.norm for each in own[since : index + 1] if math.isfinite(each.norm)]
            since = index + 1
            values = _moments(own[: index + 1], window) | _shares(own[: index + 1], window)
            values |= {"norm": step.before, "norm_after_clipping": step.after, "learning_rate": step.rate}
            values |= {"norm_largest": max(largest, default=None)}
            zeros = [sum(each) for each in zip(*step.zeros.values(), strict=True)]
            values["zero_share"] = zeros[0] / zeros[1]
            for quantity, value in values.items():
                if value is not None:
                    found.setdefault(f"gradients/{quantity}/{name}", {})[step.at] = value
            for layer, norm in step.layers.items():
                found.setdefault(f"gradients/layer_norm/{layer}", {})[step.at] = norm
                share = step.zeros[layer][0] / step.zeros[layer][1]
                found.setdefault(f"gradients/layer_zero_share/{layer}", {})[step.at] = share
            for layer, ratio in step.ratios.items():
                found.setdefault(f"gradients/update_ratio/{layer}", {})[step.at] = ratio
    return found


def _moments(steps: Sequence[Step], window: int) -> dict[str, float | None]:
    """Over the last steps, and of all with weights that fall off."""
    recent = np.array([step.norm for step in steps[-window:] if math.isfinite(step.norm)])
    enough = len(recent) >= 10
    mean = float(recent.mean()) if enough else None
    sd = float(recent.std(ddof=1)) if enough else None
    found: dict[str, float | None] = {"norm_mean": mean, "norm_variance": sd**2 if sd is not None else None}
    if sd is not None and mean is not None:
        found |= {"norm_cv": sd / mean, "norm_band_low": max(0.0, mean - sd), "norm_band_high": mean + sd}

    # The weights of the recursion: the first value has all that is left.
    every = np.array([step.norm for step in steps if math.isfinite(step.norm)])
    if not len(every):
        return found
    decay = 1 - 2 / (window + 1)
    weights = (1 - decay) * decay ** np.arange(len(every) - 1, -1, -1.0)
    weights[0] = decay ** (len(every) - 1)
    average = float((weights * every).sum())
    found["norm_average"] = average
    if len(every) >= 10:
        found["norm_average_variance"] = float((weights * (every - average) ** 2).sum())
    return found


def _shares(steps: Sequence[Step], window: int) -> dict[str, float | None]:
    recent, found = steps[-window:], dict[str, float | None]()
    factors = [step.factor for step in recent if step.factor is not None]
    if factors:
        found["clipped_share"] = sum(factor < 0.99999 for factor in factors) / len(factors)
    found["clip_factor"] = steps[-1].factor
    if any(step.scaled for step in steps):
        found["skipped_share"] = sum(step.skipped for step in recent) / len(recent)
    noise = [estimates(*step.first, step.norm**2) for step in steps if step.first is not None and not step.skipped]
    if len(noise) >= 10:
        signal, spread = (sum(0.99 ** (len(noise) - 1 - i) * each[k] for i, each in enumerate(noise)) for k in (0, 1))
        found["noise_scale"] = spread / signal if signal > 0 <= spread else None
    return found


def estimates(small_square: float, small: int, big: int, big_square: float) -> tuple[float, float]:
    """Signal and noise (McCandlish et al. 2018, appendix A.1)."""
    noise = (small_square - big_square) / (1 / small - 1 / big)
    return big_square - noise / big, noise


# Runs.


class Notebook(Logger):
    """Keeps what is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.curves: Curves = {}

    @property
    def name(self) -> str:
        return "notebook"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            if name.startswith("gradients/"):
                self.curves.setdefault(name, {})[step or 0] = value


@dataclass
class Run:
    """A run that was watched, in plain values.

    Attributes:
        histories: What the monitor keeps of each optimizer.
        findings: What it found.
        curves: What it drew, by name and step.
        window: Its window.
        every: Its cadence.
        module: What was trained, unless that was in another process.
    """

    histories: dict[str, Any]
    findings: list[Finding]
    curves: Curves
    window: int
    every: int
    module: Any = None

    @classmethod
    def of(cls, monitor: GradientNormMonitor, notebook: Notebook, module: Any = None) -> "Run":
        """What came of it."""
        histories, every = monitor.room_state()["histories"], monitor.every_n_train_steps
        return cls(histories, list(monitor.findings), notebook.curves, monitor.window, every, module)

    def recent(self, optimizer: str) -> list[list[Any]]:
        """Step, norm, clip factor, whether it was skipped, and loss, of the last steps."""
        return self.histories[optimizer]["recent"]

    @property
    def blind(self) -> str:
        """What the monitor says that it cannot measure."""
        return " ".join(finding.message for finding in self.findings if finding.code == "GRD901")

    @property
    def accused(self) -> list[tuple[str, str | None]]:
        """The findings that are more than a note."""
        return [(finding.code, finding.where) for finding in self.findings if finding.severity > Severity.INFO]


def watched(
    module: LightningModule,
    batches: Sequence[Batch],
    *callbacks: Callback,
    every: int = 1,
    window: int = 100,
    **settings: Any,
) -> Run:
    """Train for an epoch under a monitor that raises its own faults."""
    monitor = GradientNormMonitor(every_n_train_steps=every, window=window, histograms=False, strict=True)
    notebook = Notebook()
    trainer = helpers.trainer(monitor, *callbacks, logger=notebook, **{"max_epochs": 1, **settings})
    seed_everything(5, verbose=False)
    trainer.fit(module, loader(batches))
    return Run.of(monitor, notebook, module)


class Diary(Callback):
    """Writes down the run of its process: another process has no other way to bring it home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        (monitor,) = (each for each in trainer.callbacks if isinstance(each, GradientNormMonitor))
        notebook = trainer.loggers[0]
        assert isinstance(notebook, Notebook)
        told = pickle.dumps(Run.of(monitor, notebook))
        (self.folder / f"rank{trainer.global_rank}.pickle").write_bytes(told)


def told_by(folder: Path, ranks: int = 2) -> list[Run]:
    """What each process wrote down."""
    return [pickle.loads((folder / f"rank{rank}.pickle").read_bytes()) for rank in range(ranks)]


def compare(
    run: Run, steps: Sequence[Step], *, within: float = 1e-5, ratios: float = 1e-3, loose: float = 1e-3
) -> None:
    """Every number of every step, in the history and in the curves.

    Args:
        run: What was watched.
        steps: What should have been measured.
        within: Relative, of norms, means and learning rates.
        ratios: Relative, of updates: float32 weights round them.
        loose: Relative, of what is a difference of norms: variances, and the noise scale.
    """
    compare_histories(run, steps, within=within)
    drawn = {name: list(run.curves[f"gradients/learning_rate/{name}"]) for name in run.histories}
    for name, points in drawn.items():
        made = sorted({step.at for step in steps if step.optimizer == name and not step.skipped})
        assert points[0] == made[0]
        assert len(points) >= min(8, len(made))
        assert set(points) <= set(made)
        assert run.every > 1 or points == made
    expected = curves(steps, window=run.window, drawn=drawn)
    assert set(run.curves) == set(expected)
    for name, points in expected.items():
        assert set(run.curves[name]) == set(points), name
        near = ratios if "update_ratio" in name else loose if _delicate(name) else within
        _alike([run.curves[name][at] for at in points], list(points.values()), near, name)


def compare_histories(run: Run, steps: Sequence[Step], *, within: float = 1e-5) -> None:
    """The numbers of every step that outlive it, on any rank."""
    assert set(run.histories) == {step.optimizer for step in steps}
    for name, history in run.histories.items():
        own = [step for step in steps if step.optimizer == name]
        assert history["steps"] == len(own)
        kept = own[-run.window :]
        assert [(seen[0], seen[3]) for seen in history["recent"]] == [(step.at, step.skipped) for step in kept]
        _alike([seen[1] for seen in history["recent"]], [step.norm for step in kept], within, f"norms of {name}")
        _alike([seen[2] for seen in history["recent"]], [step.factor for step in kept], within, f"factors of {name}")


def _delicate(name: str) -> bool:
    return any(word in name for word in ("variance", "cv", "band", "noise_scale"))


def _alike(found: Sequence[float | None], expected: Sequence[float | None], within: float, name: str) -> None:
    assert len(found) == len(expected), name
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one is None or other is None:
            assert one is other is None, f"{name}[{index}]: {one} and {other}"
        elif math.isnan(other):
            assert not math.isfinite(one), f"{name}[{index}]: {one} is finite"
        else:
            alike = pytest.approx(other, rel=within, abs=1e-12)
            assert one == alike, f"{name}[{index}]: {one} instead of {other}"

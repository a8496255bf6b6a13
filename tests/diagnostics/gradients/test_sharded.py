"""FSDP2 on two processes: norms, updates and zeros are of whole parameters, and a look exchanges nothing."""

import json
import multiprocessing
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import seed_everything
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_diagnostics import GradientNormMonitor
from tests import helpers
from tests.diagnostics.gradients.reference import (
    Batch,
    Diary,
    Notebook,
    Regression,
    Run,
    Step,
    Twin,
    add,
    by_norm,
    by_value,
    compare,
    compare_histories,
    data,
    loader,
    told_by,
)
from tests.diagnostics.gradients.test_two_processes import RANKS, Halves

ANSWER_WITHIN = 60


class Sharded(Regression):
    """Every layer is spread over the processes; the last has three rows, and so parts of different sizes."""

    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
        if not isinstance(self.net[0].weight, DTensor):
            for layer in self.net:
                if isinstance(layer, nn.Linear):
                    fully_shard(layer, mesh=mesh)
            fully_shard(self.net, mesh=mesh)


class ByHand(Sharded):
    """Manual optimisation, clipped element by element."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="value")
        optimizer.step()


class Parallel(Regression):
    """Tensor parallel: the first two layers are split, one bias is on both ranks, and so is all of the last layer."""

    def configure_model(self) -> None:
        mesh = self.device_mesh["tensor_parallel"]  # type: ignore[index]
        if not isinstance(self.net[0].weight, DTensor):
            parallelize_module(self.net, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


class Collectives(TorchDispatchMode):
    """Counts what is exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "c10d" in func.namespace:
            self.found[str(func)] += 1
        return func(*args, **(kwargs or {}))


class Listened(GradientNormMonitor):
    """Writes down how often its hooks are called, and what they exchange."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.called: Counter[str] = Counter()
        self.exchanged: Counter[str] = Counter()

    def listen(self, hook: str, *args: Any, **kwargs: Any) -> Any:
        with Collectives() as mode:
            result = getattr(super(), hook)(*args, **kwargs)
        self.called[hook] += 1
        self.exchanged += Counter({f"{hook}: {name}": count for name, count in mode.found.items()})
        return result

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        self.listen("on_train_batch_start", *args, **kwargs)

    def on_before_backward(self, *args: Any, **kwargs: Any) -> None:
        self.listen("on_before_backward", *args, **kwargs)

    def on_after_backward(self, *args: Any, **kwargs: Any) -> None:
        self.listen("on_after_backward", *args, **kwargs)

    def on_before_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.listen("on_before_optimizer_step", *args, **kwargs)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.listen("on_train_batch_end", *args, **kwargs)

    def on_train_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.listen("on_train_epoch_end", *args, **kwargs)

    def _safely(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if call.__name__ in ("_before", "_after"):  # of torch's optimizers
            with Collectives() as mode:
                super()._safely(call, *args, **kwargs)
            self.called[call.__name__] += 1
            self.exchanged += Counter({f"{call.__name__}: {name}": count for name, count in mode.found.items()})
            return None
        return super()._safely(call, *args, **kwargs)


def _train(rank: int, port: int, module: Regression, joint: Sequence[Batch], folder: Path, settings: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
    kind, every, more = settings
    monitor = kind(every_n_train_steps=every, window=100, histograms=False, strict=True)
    strategy = ModelParallelStrategy(
        data_parallel_size=1 if isinstance(module, Parallel) else RANKS,
        tensor_parallel_size=RANKS if isinstance(module, Parallel) else 1,
        timeout=timedelta(seconds=30),
    )
    more = {"max_epochs": 1, "devices": RANKS, "strategy": strategy, **more}
    trainer = helpers.trainer(monitor, Diary(folder), logger=Notebook(), **more)
    seed_everything(5, verbose=False)
    if isinstance(module, Parallel):
        trainer.fit(module, loader(joint))
    else:
        trainer.fit(module, datamodule=Halves(joint))
    if isinstance(monitor, Listened):
        told = {"called": monitor.called, "exchanged": monitor.exchanged}
        (folder / f"exchanged{rank}.json").write_text(json.dumps(told))


def both(
    module: Regression,
    joint: Sequence[Batch],
    folder: Path,
    *,
    every: int = 1,
    kind: type[GradientNormMonitor] = GradientNormMonitor,
    **more: Any,
) -> list[Run]:
    """Train in two processes that Lightning did not start: it would run the tests once more."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=_train, args=(rank, port, module, joint, folder, (kind, every, more)))
        for rank in range(RANKS)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(ANSWER_WITHIN)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in ranks] == [0] * RANKS
    return told_by(folder)


def plainly(module: Regression, joint: Sequence[Batch], *, of: int = 1, clip: Any = None) -> list[Step]:
    twin = Twin(module, lambda m: {"SGD": m.optimizer()})
    summed: dict[str, Tensor] = {}
    for index, batch in twin.batches(joint):
        summed = add(summed, twin.gradients(twin.module.loss(batch)), 1 / of)
        if (index + 1) % of == 0:
            twin.step("SGD", summed, at=len(twin.steps), clip=clip)
            summed = {}
    return twin.steps


def test_norms_are_of_whole_parameters(tmp_path: Path) -> None:
    module, joint = Sharded(), data(20, rows=16)
    steps = plainly(module, joint)
    runs = both(module, joint, tmp_path)
    for run in runs:
        compare_histories(run, steps)
        assert not run.accused
        assert not run.blind
    compare(runs[0], steps)


@pytest.mark.parametrize("every", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_clipping_and_accumulation(every: int, tmp_path: Path) -> None:
    module, joint = Sharded(), data(20, rows=16)
    steps = plainly(module, joint, of=2, clip=by_norm(0.5))
    runs = both(module, joint, tmp_path, every=every, gradient_clip_val=0.5, accumulate_grad_batches=2)
    for run in runs:
        compare_histories(run, steps)
        assert not run.blind
    compare(runs[0], steps)


def test_manual_optimisation(tmp_path: Path) -> None:
    module, joint = ByHand(), data(20, rows=16)
    steps = plainly(module, joint, clip=by_value(0.1))
    runs = both(module, joint, tmp_path, every=50)
    for run in runs:
        compare_histories(run, steps)
        assert not run.blind
    compare(runs[0], steps)


def test_what_is_on_both_ranks_counts_once(tmp_path: Path) -> None:
    module, joint = Parallel(), data(12)
    steps = plainly(module, joint)
    runs = both(module, joint, tmp_path, use_distributed_sampler=False)
    for run in runs:
        compare_histories(run, steps)
        assert not run.blind
    compare(runs[0], steps)


def test_a_look_exchanges_nothing(tmp_path: Path) -> None:
    both(Sharded(), data(6, rows=16), tmp_path, kind=Listened, gradient_clip_val=0.5)
    for rank in range(RANKS):
        told = json.loads((tmp_path / f"exchanged{rank}.json").read_text())
        hooks = ("on_train_batch_start", "on_before_optimizer_step", "_before", "_after", "on_train_batch_end")
        assert [told["called"][hook] for hook in hooks] == [6] * 5
        assert told["exchanged"]  # it can be seen, where the ranks meet
        assert {name.split(":")[0] for name in told["exchanged"]} == {"on_train_epoch_end"}

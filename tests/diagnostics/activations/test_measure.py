"""The numbers of real runs: networks whose activations are known exactly, and two processes against one."""

import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from lightning_diagnostics import ActivationMonitor
from lightning_diagnostics.diagnostics.activations import callback
from lightning_diagnostics.diagnostics.activations.looking import batch_size
from lightning_diagnostics.diagnostics.activations.measure import LayerReading, Look, layer_reading
from lightning_diagnostics.diagnostics.activations.window import RECENT, Window
from lightning_diagnostics.probes import Readings
from lightning_diagnostics.statistics import samples_needed
from tests.contracts.cells import logged
from tests.diagnostics.activations.looks import about
from tests.helpers import trainer

OPEN = (-math.inf, math.inf)
SOON = {"dead-units.activity": 0.9}  # so few samples make a verdict that eight looks are what it takes


class Still(LightningModule):
    """Learns nothing: what it puts out depends on the data alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.net(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def drawn(folder: Path) -> dict[str, dict[int, float]]:
    """Everything that was drawn, by name without its first part, and step."""
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for step, name, value in logged(folder):
        if name.startswith("activations/"):
            values[name.removeprefix("activations/")][step] = float(value)
    return values


def run(
    module: LightningModule, batches: Sequence[Any], folder: Path, *, epochs: int = 1, **more: Any
) -> tuple[ActivationMonitor, dict[str, dict[int, float]]]:
    """Train with a look at every step; gives the monitor and what it drew."""
    monitor = ActivationMonitor(**{"strict": True, "every_n_train_steps": 1, "limits": SOON, **more})
    logger = CSVLogger(folder, name="csv", version=0)
    fitting = trainer(monitor, logger=logger, max_epochs=epochs, num_sanity_val_steps=0)
    fitting.fit(module, DataLoader(list(batches), batch_size=None))
    return monitor, drawn(folder)


# Dense and convolutional layers whose every output was worked out by hand.

DENSE: dict[str, Any] = {
    "mixed": {
        "weight": [[1, 0], [-1, -1], [0, 1], [1, -2]],
        "bias": [0, -1, -2, 0],
        "batches": [[[1, 1], [2, 3], [0, 1]], [[1, 0], [0, 5], [1, 2]]],
        "zeros": [0.75, 2 / 3],
        "active": [4, 0, 2, 1],
        "dormant": [2.0, 0.0, 1.6, 0.4],
        "dead": [1],
    },
    "exactly-zero": {
        "weight": [[1], [0], [2]],
        "bias": [0, 0, -2],
        "batches": [[[0], [1]], [[1], [0]]],
        "zeros": [5 / 6, 5 / 6],
        "active": [2, 0, 0],
        "dormant": [3.0, 0.0, 0.0],
        "dead": [1, 2],
    },
    "all-dead": {
        "weight": [[-1], [-2]],
        "bias": [-1, -1],
        "batches": [[[1], [2], [3]]],
        "zeros": [1.0],
        "active": [0, 0],
        "dormant": None,
        "dead": [0, 1],
    },
}
CONVOLUTION = torch.tensor(
    [
        [[[1.0, -1], [0, -2]], [[-1, -1], [-1, 0]], [[-1, -1], [-1, -1]]],
        [[[-1, -1], [-1, -1]], [[-3, 0], [0, -1]], [[-1, 5], [-1, -1]]],
    ]
)
every_dense = pytest.mark.parametrize("toy", [SimpleNamespace(**toy) for toy in DENSE.values()], ids=DENSE)


def dense(toy: Any, activation: nn.Module) -> nn.Sequential:
    weight = torch.tensor(toy.weight, dtype=torch.float32)
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": weight, "bias": torch.tensor(toy.bias, dtype=torch.float32)})
    return nn.Sequential(linear, activation)


class Functional(nn.Module):
    """The same as a module, as a call."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x)


@every_dense
@pytest.mark.parametrize(
    ("activation", "name"), [(nn.ReLU(), "net.1"), (nn.ReLU(inplace=True), "net.1"), (Functional(), "net.1/relu")]
)
def test_a_dense_layer_worked_out_by_hand(toy: Any, activation: nn.Module, name: str, tmp_path: Path) -> None:
    batches = [torch.tensor(batch, dtype=torch.float32) for batch in toy.batches]
    monitor, values = run(Still(dense(toy, activation)), batches, tmp_path, epochs=RECENT)
    units, steps = len(toy.bias), RECENT * len(batches)
    zeros = values[f"zero_share/{name}"]
    assert [zeros[step] for step in range(steps)] == pytest.approx(toy.zeros * RECENT)
    assert values[f"dead_share/{name}"][steps - 1] == pytest.approx(len(toy.dead) / units)
    assert monitor.units(name) == {
        "onset": [0 if unit in toy.dead else None for unit in range(units)],
        "revival": [None] * units,
    }


@every_dense
def test_active_outputs_and_dormant_scores_worked_out_by_hand(toy: Any) -> None:
    batches = [torch.tensor(batch, dtype=torch.float32) for batch in toy.batches]
    outputs = [dense(toy, nn.ReLU())(batch).detach() for batch in batches]
    assert sum(read(output).count for output in outputs).tolist() == toy.active
    whole = read(torch.cat(outputs), family="smooth")
    if toy.dormant is not None:
        score = whole.count / whole.positions / (whole.count.sum() / whole.positions / len(toy.bias))
        np.testing.assert_allclose(score, toy.dormant, rtol=1e-6)
    made = Window(activity=0.9, alpha=0.05, saturated=0.9)
    made.know({"act": about(units=len(toy.bias), family="smooth")})
    for step in range(RECENT):
        made.update(Look(step, False, {"act": whole}))
    assert made.layer("act").dead_units == tuple(toy.dead)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
def test_a_convolution_worked_out_by_hand(last: bool, tmp_path: Path) -> None:
    convolution = nn.Conv2d(3, 3, 1)
    convolution.load_state_dict({"weight": torch.eye(3).view(3, 3, 1, 1), "bias": torch.zeros(3)})
    batch = CONVOLUTION.to(memory_format=torch.channels_last) if last else CONVOLUTION
    monitor, values = run(Still(nn.Sequential(convolution, nn.ReLU())), [batch] * 10, tmp_path)
    assert list(values["zero_share/net.1"].values()) == [pytest.approx(11 / 12)] * 10
    assert values["dead_share/net.1"][9] == pytest.approx(1 / 3)
    assert monitor.units("net.1")["onset"] == [None, 0, None]
    assert values["max/net.1"][0] == 5.0
    whole = read(convolution(batch).relu().detach())
    assert (whole.count.tolist(), whole.positions, whole.samples) == ([1, 0, 1], 8, 2)


def test_evidence_counts_samples_and_not_positions(tmp_path: Path) -> None:
    monitor, values = run(Still(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())), [CONVOLUTION] * 20, tmp_path, limits={})
    assert "dead_share/net.1" not in values
    need = samples_needed(8)
    assert monitor.undecided() == [f"units of net.1: 40 of the {need} samples that a verdict needs"]


# Units that die and come back.


class Biased(Still):
    """A unit is switched off over some steps, by its bias."""

    def __init__(self, off: dict[int, range]) -> None:
        super().__init__(nn.Sequential(nn.Linear(2, 4), nn.ReLU()))
        self.off, self.step = off, 0
        with torch.no_grad():
            self.net[0].weight.zero_()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        with torch.no_grad():
            for unit in range(4):
                self.net[0].bias[unit] = -1.0 if self.step in self.off.get(unit, ()) else 1.0
        self.step += 1
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("batches", [40, 10, 5])
def test_onset_and_revival_are_told_of_every_unit_over_epochs(batches: int, tmp_path: Path) -> None:
    module = Biased({0: range(10, 29), 1: range(25, 40), 2: range(8), 3: range(20, 27)})
    monitor, values = run(module, [torch.ones(4, 2)] * batches, tmp_path, epochs=40 // batches)
    # The first came back at 29, the second is dead, the third was dead for one look, the fourth for none.
    assert monitor.units("net.1") == {"onset": [None, 25, None, None], "revival": [29, None, 8, None]}
    expected = {7: 0.25, 8: 0.0, 16: 0.0, 17: 0.25, 28: 0.25, 29: 0.0, 31: 0.0, 32: 0.25, 39: 0.25}
    assert {step: values["dead_share/net.1"][step] for step in expected} == expected
    assert min(values["dead_share/net.1"]) == 7


def test_the_window_spans_as_many_epochs_as_a_verdict_takes(tmp_path: Path) -> None:
    need = samples_needed(4)
    epochs = -(-need // 12)
    monitor, values = run(Biased({1: range(10**6)}), [torch.ones(4, 2)] * 3, tmp_path, epochs=epochs, limits={})
    assert min(values["dead_share/net.1"]) == -(-need // 4) - 1  # the step of the look that makes it enough
    assert set(values["dead_share/net.1"].values()) == {0.25}
    assert monitor.units("net.1")["onset"] == [None, 0, None, None]


def test_asking_for_a_layer_that_was_not_seen_says_which_were(tmp_path: Path) -> None:
    monitor = ActivationMonitor()
    with pytest.raises(ValueError, match=r"^layer='act': known are none yet$"):
        monitor.units("act")
    monitor, _ = run(Biased({}), [torch.ones(4, 2)], tmp_path)
    with pytest.raises(ValueError, match=r"^layer='act': known are 'net\.1'$"):
        monitor.units("act")


# Other layers.


def test_units_of_a_gelu_are_dormant_where_they_are_next_to_nothing_beside_their_layer(tmp_path: Path) -> None:
    linear = nn.Linear(1, 4)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.copy_(torch.tensor([3.0, 1.0, -3.0, -8.0]))
    monitor, values = run(Still(nn.Sequential(linear, nn.GELU())), [torch.ones(4, 1)] * 9, tmp_path)
    outputs = functional.gelu(linear.bias).abs()
    assert (outputs / outputs.mean() <= 0.025).tolist() == [False, False, True, True]
    assert values["dead_share/net.1"][8] == 0.5
    assert monitor.units("net.1")["onset"] == [None, None, 0, 0]
    assert "zero_share/net.1" not in values


def test_saturation_is_the_share_of_outputs_near_the_ends(tmp_path: Path) -> None:
    inputs = torch.tensor([-9.0, -2.7, -2.6, 0.0, 2.6, 2.7, 9.0, 9.0]).view(-1, 1)
    linear = nn.Linear(1, 1)
    linear.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
    _, values = run(Still(nn.Sequential(linear, nn.Tanh())), [inputs], tmp_path)
    assert values["saturated_share/net.1"] == {0: 5 / 8}  # tanh(2.6) is 0.989, tanh(2.7) is 0.991
    _, values = run(Still(nn.Sequential(linear, nn.Sigmoid())), [2 * inputs], tmp_path / "sigmoid")
    assert values["saturated_share/net.1"] == {0: 5 / 8}  # the same function, from 0 to 1


class Varying(Still):
    """Calls an activation on as many features as there are in a batch."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 3))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        hidden = self.net(batch).relu()
        return torch.tanh(hidden[:, : 1 + batch_idx % 2]).sum()


def test_a_layer_whose_number_of_units_varies_is_not_read_and_is_said_to(tmp_path: Path) -> None:
    monitor, values = run(Varying(), [torch.ones(4, 3)] * 10, tmp_path)
    (note,) = (finding for finding in monitor.findings if finding.code == "ACT901")
    assert note.message == "blind in layers whose number of units varies (self/tanh)."
    assert list(values["mean/self/tanh"]) == [0]
    assert list(values["mean/self/relu"]) == list(range(10))


class Switching(Still):
    """Calls an activation in validation only, another in both."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.net(batch - 100).tanh()


def test_only_training_batches_are_read(tmp_path: Path) -> None:
    monitor = ActivationMonitor(strict=True, every_n_train_steps=1, limits=SOON)
    logger = CSVLogger(tmp_path, name="csv", version=0)
    fitting = trainer(monitor, logger=logger, max_epochs=2, val_check_interval=2, num_sanity_val_steps=2)
    torch.manual_seed(0)
    data = DataLoader([torch.ones(4, 3)] * 6, batch_size=None)
    module = Switching()
    fitting.fit(module, data, data)
    values = drawn(tmp_path)
    assert not [name for name in values if "tanh" in name]
    expected = module.net(torch.ones(1, 3)).mean().item()
    assert list(values["mean/net.1"]) == list(range(12))
    assert list(values["mean/net.1"].values()) == [pytest.approx(expected, abs=1e-6)] * 12


class Routed(Still):
    """Three of the rows of a batch go to an expert, and a shared activation sees the batch twice."""

    def __init__(self) -> None:
        super().__init__(nn.ModuleDict({"expert": nn.Linear(3, 3), "act": nn.ReLU(), "twice": nn.ReLU()}))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        routed = self.net["act"](self.net["expert"](batch[:3]))
        for _ in range(2):
            self.net["twice"](batch)
        return routed.sum()


def test_samples_are_those_that_a_layer_has_seen_each_once() -> None:
    monitor = ActivationMonitor(strict=True, every_n_train_steps=1)
    trainer(monitor, max_epochs=1).fit(Routed(), DataLoader([torch.ones(8, 3)] * 5, batch_size=None))
    looks = {name: monitor._window.layer(name) for name in ("net.act", "net.twice")}
    assert {name: (look.looks, look.samples) for name, look in looks.items()} == {
        "net.act": (5, 15),
        "net.twice": (5, 40),
    }


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        *(
            (torch.ones(3, 2), 3),
            ([torch.ones(4, 2), torch.ones(4)], 4),
            ([torch.ones(3, 9), torch.ones(3, 7), torch.ones(3, 8)], 3),
            ([torch.ones(9, 3), torch.ones(7, 3)], 2),
            ({"a": "text", "b": torch.ones(6)}, 6),
        ),
        *((("text", [[torch.ones(7, 1)]]), 7), (torch.tensor(1.0), None), ("text", None), (None, None), ([], None)),
        *((SimpleNamespace(num_graphs=9, x=torch.ones(50)), 9), ([torch.tensor(1.0), torch.ones(2)], 2)),
    ],
)
def test_the_samples_of_a_batch_are_counted(batch: Any, size: int | None) -> None:
    assert batch_size(batch) == size


# Merging.


def read(*outputs: Tensor, family: Any = "rectifier", samples: int | None = None) -> LayerReading:
    """What a look reads of these calls of one layer."""
    taking = Readings(histograms=True)
    for output in outputs:
        taking.take(0, output, axis=1, family=family, ends=(-1.0, 1.0) if family == "saturating" else OPEN)
    samples = sum(map(len, outputs)) if samples is None else samples
    return layer_reading(taking.collect()[0], samples=samples, signed=family != "rectifier")


def assert_same(one: LayerReading, other: LayerReading) -> None:
    assert (one.samples, one.positions, one.low, one.high) == (other.samples, other.positions, other.low, other.high)
    for name in ("mean", "squares", "count"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-5)
    assert one.histogram is not None
    assert other.histogram is not None
    assert (one.histogram[0], list(one.histogram[1])) == (other.histogram[0], list(other.histogram[1]))


@pytest.mark.parametrize("family", ["rectifier", "smooth", "saturating", "other"])
@pytest.mark.parametrize("shape", [(24, 3), (24, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_what_ranks_or_calls_have_read_merges_into_what_one_would_have_read(seed: int, shape: Any, family: str) -> None:
    outputs = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2
    outputs *= torch.linspace(0.01, 3, 24).view(24, *[1] * (len(shape) - 1))  # so that the ends differ
    if family == "rectifier":
        outputs.relu_()
    whole = read(outputs, family=family)
    cuts = sorted(np.random.default_rng(seed).choice(np.arange(1, 24), size=3, replace=False).tolist())
    parts = [outputs[low:high] for low, high in zip([0, *cuts], [*cuts, 24], strict=True)]
    assert_same(read(*parts, family=family), whole)
    merged = read(parts[0], family=family)
    for part in parts[1:]:
        merged = merged.merge(read(part, family=family), signed=family != "rectifier")
    assert_same(merged, whole)


def test_what_is_not_finite_on_one_rank_is_not_finite_on_all() -> None:
    well, broken = torch.ones(2, 3), torch.ones(2, 3)
    broken[0, 0] = math.nan
    for one, other in ((well, broken), (broken, well)):
        merged = read(one).merge(read(other), signed=False)
        assert not merged.finite
        assert merged.count[1:].tolist() == [4, 4]
    assert read(well).finite


def test_a_histogram_of_one_rank_alone_is_kept() -> None:
    one, other = read(torch.ones(2, 3)), read(torch.ones(2, 3))
    other.histogram = None
    for merged in (one.merge(other, signed=False), other.merge(one, signed=False)):
        assert merged.histogram == one.histogram


class Net(nn.Module):
    """Modules and calls of every family; some units are on for a few rows only, and some for none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(1, 6, 3), nn.ReLU()
        self.dense, self.gelu, self.out, self.tanh = nn.Linear(24, 16), nn.GELU(), nn.Linear(16, 8), nn.Tanh()
        with torch.no_grad():
            self.conv.bias.copy_(torch.tensor([-9.0, -1.2, -0.8, 0.0, 0.5, 1.0]))
            self.dense.bias[:4] = -5.0
            self.out.weight *= 6

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x)).flatten(1)
        x = self.gelu(self.dense(x))
        return functional.relu(self.tanh(self.out(x)) - 0.9)


class Shared(Still):
    """The rows of a step are the same, however many processes share them."""

    def train_dataloader(self) -> DataLoader:
        rows = torch.randn(16 * 24, 1, 4, 4, generator=torch.Generator().manual_seed(6))
        rows *= torch.linspace(0.5, 2, len(rows)).view(-1, 1, 1, 1)
        number = self.trainer.world_size
        return DataLoader(rows[self.global_rank :: number], batch_size=24 // number)


def _processes(number: int, folder: Path) -> dict[str, dict[int, float]]:
    torch.manual_seed(5)
    monitor = ActivationMonitor(strict=True, every_n_train_steps=3, limits={"dead-units.activity": 0.1})
    settings: dict[str, Any] = {"devices": number, "logger": CSVLogger(folder, name="csv", version=0)}
    settings["use_distributed_sampler"] = False
    if number > 1:
        settings["strategy"] = DDPStrategy(start_method="fork", timeout=timedelta(seconds=30))
    trainer(monitor, max_epochs=3, **settings).fit(Shared(Net()))
    assert torch.multiprocessing.active_children() == []
    return drawn(folder)


def test_two_processes_draw_the_numbers_of_one_on_the_same_data(tmp_path: Path) -> None:
    one, two = (_processes(number, tmp_path / str(number)) for number in (1, 2))
    assert one.keys() == two.keys()
    assert len(one) > 30
    for name, values in one.items():
        assert values.keys() == two[name].keys(), name
        for step, value in values.items():
            assert two[name][step] == pytest.approx(value, rel=1e-4, abs=1e-6), (name, step)
    for name in ("net.act", "net.gelu", "net/relu"):
        assert 0 < one[f"dead_share/{name}"][47] < 1
    assert 0 < one["saturated_share/net.tanh"][47] < 1
    assert one["drift/net.act"].keys() == {16, 32}


def test_looks_that_waited_too_long_and_were_put_together_tell_the_same_deaths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = _processes(1, tmp_path / "one")
    monkeypatch.setattr(callback, "_KEPT_APART", 4)
    two = _processes(2, tmp_path / "two")
    last = {name: max(values) for name, values in one.items()}
    for name in ("dead_share/net.act", "dead_share/net.gelu", "dead_share/net/relu", "worst_dead_share"):
        assert two[name][max(two[name])] == one[name][last[name]]
    assert len(two["mean/net.act"]) < len(one["mean/net.act"])


# What is not finite in a layer that no gradient leads to.


class Untrained(Still):
    """A frozen part puts out what is not finite, and the loss knows nothing of it."""

    def __init__(self, bad: float) -> None:
        super().__init__(nn.Linear(2, 2))
        self.bad, self.frozen = bad, nn.ReLU()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        with torch.no_grad():
            self.frozen(batch * (self.bad if batch_idx == 3 else 1.0))
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("bad", "word"), [(math.inf, "Inf"), (math.nan, "NaN")])
def test_what_is_not_finite_is_called_by_its_name(bad: float, word: str, tmp_path: Path) -> None:
    monitor, values = run(Untrained(bad), [torch.ones(3, 2)] * 6, tmp_path)
    (found,) = (finding for finding in monitor.findings if finding.code == "ACT106")
    assert (found.where, found.first_step, found.evidence) == ("frozen", 3, {"value": word, "last_finite_look": 2})
    assert str(values["max/frozen"][3]) == str(abs(bad))
    assert math.isfinite(values["max/frozen"][4])

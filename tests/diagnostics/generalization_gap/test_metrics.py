"""Objects of torchmetrics: found, set aside and put back as the very same objects, and computed over several states."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import CatMetric, MaxMetric, MeanMetric, Metric, MetricCollection, MinMetric, SumMetric
from torchmetrics.classification import BinaryAUROC, BinaryPrecision, BinaryRecall, MulticlassAccuracy
from torchmetrics.regression import MeanSquaredError
from torchmetrics.wrappers import MinMaxMetric

from lightning_diagnostics.diagnostics.generalization_gap import metrics

CPU = torch.device("cpu")


class Holder(nn.Module):
    """Metrics in every place where users keep them."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(3)
        self.both = MetricCollection([BinaryPrecision(), BinaryRecall()])
        self.curves = nn.ModuleDict({"auroc": BinaryAUROC()})
        self.plain: list[Any] = [MeanMetric(), {"sum": [SumMetric()]}]
        self.best = MinMaxMetric(MeanSquaredError())
        self._hidden = [CatMetric()]


def _used() -> Holder:
    """Its metrics have seen something."""
    holder = Holder()
    shares, targets = torch.tensor([0.25, 0.75, 0.875]), torch.tensor([0, 1, 0])
    holder.accuracy(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]))
    holder.both(shares, targets)
    holder.both(shares, targets)  # from the second time on the two share their states
    holder.curves["auroc"](shares, targets)
    holder.plain[0].update(shares)
    holder.plain[1]["sum"][0].update(shares)
    holder.best(shares, targets.float())
    return holder


def _shape(holder: Holder) -> list[Any]:
    """Every attribute of every metric by identity, lists with what is in them."""
    found: list[Any] = []
    for path, metric in metrics.found(holder).items():
        for name, value in sorted(vars(metric).items()):
            inner = [id(each) for each in value] if isinstance(value, list) else None
            copies = value.tolist() if isinstance(value, Tensor) else None
            found.append((path, name, id(value), inner, copies))
    found += [(name, id(value)) for name, value in sorted(vars(holder.both).items())]
    return found


def test_every_metric_of_a_module_is_found_by_its_path() -> None:
    paths = {
        *("accuracy", "both.BinaryPrecision", "both.BinaryRecall", "curves.auroc", "best", "best._base_metric"),
        *("plain[0]", "plain[1]['sum'][0]"),
    }
    assert set(metrics.found(Holder())) == paths


def test_set_aside_puts_the_very_same_objects_back() -> None:
    holder = _used()
    before = _shape(holder)
    with metrics.set_aside(holder):
        for metric in metrics.found(holder).values():
            assert not metric.update_called
        holder.accuracy(torch.tensor([2, 2]), torch.tensor([2, 2]))
        holder.both(torch.tensor([0.75]), torch.tensor([1]))
        holder.curves["auroc"](torch.tensor([0.5, 0.25]), torch.tensor([1, 0]))
        holder.plain[0].update(torch.tensor(100.0))
        holder.best(torch.tensor([9.0]), torch.tensor([1.0]))
        assert float(holder.accuracy.compute()) == 1.0
    assert _shape(holder) == before


def test_set_aside_puts_them_back_after_an_error_too() -> None:
    holder = _used()
    before = _shape(holder)
    aside = metrics.set_aside(holder)
    aside.__enter__()
    holder.accuracy(torch.tensor([2]), torch.tensor([2]))
    assert not aside.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert _shape(holder) == before


def test_a_list_that_the_user_holds_is_not_emptied() -> None:
    metric = BinaryAUROC()
    metric(torch.tensor([0.25, 0.75]), torch.tensor([0, 1]))
    held = metric.preds
    metrics.renew(metric)
    assert len(held) == 1
    assert metric.preds == []
    assert not metrics.is_updated(metric)


def _draw(seed: int, size: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(size, generator=draw), torch.randint(0, 2, (size,), generator=draw)


def _classes(seed: int, size: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 3, (size,), generator=draw), torch.randint(0, 3, (size,), generator=draw)


EACH: dict[str, tuple[Any, Any]] = {
    "accuracy": (lambda: MulticlassAccuracy(3, average="micro"), _classes),
    "macro": (lambda: MulticlassAccuracy(3), _classes),
    "auroc": (BinaryAUROC, _draw),  # concatenates
    "precision": (BinaryPrecision, _draw),
    "error": (MeanSquaredError, _draw),
    "mean": (MeanMetric, lambda seed, size: _draw(seed, size)[:1]),
    "sum": (SumMetric, lambda seed, size: _draw(seed, size)[:1]),
    "max": (MaxMetric, lambda seed, size: _draw(seed, size)[:1]),
    "min": (MinMetric, lambda seed, size: _draw(seed, size)[:1]),
}


@pytest.mark.parametrize("name", EACH)
def test_the_states_of_several_processes_come_to_what_one_would_that_saw_all(name: str) -> None:
    make, draw = EACH[name]
    whole, parts = make(), [make() for _ in range(3)]
    for process, part in enumerate(parts):
        for batch in range(2):
            data = draw(10 * process + batch, 5 + process)
            part.update(*data)
            whole.update(*data)
    fresh = make()
    states = [metrics.state(part) for part in parts]
    portable = [metrics.portable(state) for state in states]
    assert None not in portable
    found = metrics.value(fresh, [each for each in portable if each is not None], CPU)
    assert found == pytest.approx(float(whole.compute()), rel=1e-5)
    assert not fresh.update_called
    assert all(part.update_count == 2 for part in parts)


def test_a_metric_that_is_computed_is_left_as_it_was() -> None:
    metric = MulticlassAccuracy(3)
    metric(*_classes(1, 9))
    before = {name: id(value) for name, value in vars(metric).items()}
    state = metrics.state(metric)
    assert metrics.value(metric, [state, state], CPU) is not None
    assert {name: id(value) for name, value in vars(metric).items()} == before


def test_what_is_no_number_is_none() -> None:
    metric = MulticlassAccuracy(3, average=None)
    metric(*_classes(1, 9))
    assert metrics.value(metric, [metrics.state(metric)], CPU) is None


class Unreduced(Metric):
    """Says nothing of how its state is put together."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0))

    def update(self, value: Tensor) -> None:
        self.total = self.total + value

    def compute(self) -> Tensor:
        return self.total


def test_a_state_without_a_reduction_is_of_one_process_only() -> None:
    metric = Unreduced()
    metric.update(torch.tensor(2.0))
    state = metrics.state(metric)
    assert metrics.value(metric, [state], CPU) == 2.0
    with pytest.raises(TypeError, match="the state 'total' of Unreduced has no reduction over processes"):
        metrics.value(metric, [state, state], CPU)


def test_a_state_that_is_too_large_is_not_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = BinaryAUROC()
    metric(*_draw(1, 100))
    state = metrics.state(metric)
    size = sum(each.numel() * each.element_size() for value in state.values() for each in value)
    monkeypatch.setattr(metrics, "MOST_BYTES", size)
    assert metrics.portable(state) is not None
    monkeypatch.setattr(metrics, "MOST_BYTES", size - 1)
    assert metrics.portable(state) is None


def test_a_metric_of_a_collection_has_the_states_that_another_keeps_for_it() -> None:
    holder = _used()
    metrics.refer(holder)
    found = metrics.found(holder)
    recall = found["both.BinaryRecall"]
    assert metrics.value(BinaryRecall(), [metrics.state(recall)], CPU) == 1.0

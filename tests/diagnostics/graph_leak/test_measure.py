"""The numbers behind a finding agree with a slow second computation, and nothing is kept by measuring."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_diagnostics import GraphLeakDetector
from lightning_diagnostics.diagnostics.graph_leak.measure import NODE_BYTES
from lightning_diagnostics.diagnostics.graph_leak.search import search
from tests.diagnostics.graph_leak import sick
from tests.helpers import trainer


def count_nodes(tensor: Tensor) -> int:
    """Every node behind a tensor but the leaves, by plain recursion."""
    seen: set[Any] = set()

    def visit(node: Any) -> None:
        if node is None or node in seen or type(node).__name__ == "AccumulateGrad":
            return
        seen.add(node)
        for child, _ in node.next_functions:
            visit(child)

    visit(tensor.grad_fn)
    return len(seen)


def found(module: Any) -> Any:
    """The evidence after seven steps."""
    detector = GraphLeakDetector(strict=True)
    trainer(detector, max_epochs=1, limit_train_batches=7).fit(module, sick.batches())
    (finding,) = detector.findings
    return finding.evidence


def test_nodes_a_step_are_those_of_a_recursive_count() -> None:
    module = sick.Losses()
    evidence = found(module)
    assert evidence["nodes_per_step"] == count_nodes(module.losses[0])
    assert evidence["retained_steps"] == 6
    assert evidence["tensors"] == 7  # the last one is young


def test_a_running_sum_grows_by_the_graph_of_a_step_and_the_addition() -> None:
    module = sick.RunningLoss()
    assert found(module)["nodes_per_step"] == pytest.approx(count_nodes(module.running_loss) / 7, rel=0.05)


def test_bytes_a_step_are_those_of_the_tensors_and_of_what_the_graph_still_saves() -> None:
    class SavesMore(sick.Outputs):
        """A branch that backward never visits keeps what it saved: the sigmoid's output."""

        def keep(self, loss: Tensor, logits: Tensor) -> None:
            self.outputs.append(logits.repeat(1, 100).sigmoid().norm(dim=1))

    module = SavesMore()
    evidence = found(module)
    norms, sigmoids = 8 * 4, 8 * 300 * 4
    expected = norms + sigmoids + NODE_BYTES * count_nodes(module.outputs[0])
    assert evidence["bytes_per_step"] == pytest.approx(expected, rel=0.01)


def test_parameters_are_not_counted_as_growth() -> None:
    class Wide(sick.Losses):
        def __init__(self) -> None:
            super().__init__()
            self.wide = torch.nn.Parameter(torch.zeros(1000, 1000))

        def keep(self, loss: Tensor, logits: Tensor) -> None:
            self.losses.append((self.wide * self.wide).sum() + loss)  # saves the parameter, and backward is not called

    module = Wide()
    nodes = count_nodes(module.losses[0]) if found(module)["tensors"] else 0
    assert found(Wide())["bytes_per_step"] == pytest.approx(4 + NODE_BYTES * nodes, rel=0.05)


def test_a_search_keeps_no_tensor_and_follows_no_path_twice() -> None:
    box: dict[str, Any] = {"weights": [torch.ones(2, requires_grad=True) * 2], "again": None}
    box["again"] = box
    kept = weakref.ref(box["weights"][0])
    paths = ["".join(spot.pieces) for spot, _ in search({"box": box}, {})]
    assert paths == ["box['weights'][0]"]
    box.clear()
    gc.collect()
    assert kept() is None


def test_a_search_reads_the_ends_of_a_long_list() -> None:
    long: list[Any] = [0] * 100_000
    long[10] = long[-5] = torch.ones(1, requires_grad=True) * 2
    assert ["".join(spot.pieces) for spot, _ in search({"long": long}, {})] == ["long[10]"]
    long[10] = 0
    assert ["".join(spot.pieces) for spot, _ in search({"long": long}, {})] == ["long[99995]"]


def test_growth_a_step_is_of_all_steps_where_only_looks_saw_the_graph() -> None:
    class Deep(sick.Classifier):
        """What is kept hangs below what is marked in every step."""

        def __init__(self) -> None:
            super().__init__()
            self.norms: list[Tensor] = []

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            hidden = self.net[1](self.net[0](batch[0]))
            self.norms.append(hidden.norm())  # saves what it is the norm of
            return torch.nn.functional.cross_entropy(self.net[2](hidden).exp().log().exp().log(), batch[1])

    module = Deep()
    detector = GraphLeakDetector(strict=True)
    trainer(detector, max_epochs=1).fit(module, DataLoader([*sick.batches()] * 30, batch_size=None))
    (finding,) = detector.findings
    saved = 8 * 16 * 4 + 4
    assert finding.evidence["retained_steps"] < 150
    assert finding.evidence["bytes_per_step"] == pytest.approx(
        saved + NODE_BYTES * count_nodes(module.norms[0]), rel=0.1
    )

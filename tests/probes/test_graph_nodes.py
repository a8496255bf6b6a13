"""Walking a graph, and what its nodes keep: against the graph's own names and a second computation by hooks."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from lightning_diagnostics.probes import graph_nodes, memory_free, memory_in_use, saved_storages, storage

ALL = 10_000


def _names(*roots: Node | None, **more: Any) -> list[str]:
    return [node.name() for node in graph_nodes([root for root in roots if root], **{"most": ALL, **more})]


def _diamond() -> Tensor:
    """Breadth first: the sum of two branches over a common product."""
    product = torch.ones(3, requires_grad=True) * 2
    return product.exp() + product.sin()


def test_nodes_come_breadth_first_each_once_and_without_leaves() -> None:
    assert _names(_diamond().grad_fn) == ["AddBackward0", "ExpBackward0", "SinBackward0", "MulBackward0"]


@pytest.mark.parametrize(("most", "count"), [(0, 0), (1, 1), (3, 3), (4, 4), (5, 4)])
def test_no_more_nodes_come_than_asked_for(most: int, count: int) -> None:
    assert len(_names(_diamond().grad_fn, most=most)) == count


def test_several_roots_share_what_lies_behind_both() -> None:
    product = torch.ones(3, requires_grad=True) * 2
    assert _names(product.exp().grad_fn, product.sin().grad_fn) == ["ExpBackward0", "SinBackward0", "MulBackward0"]


def test_a_graph_far_deeper_than_pythons_stack_is_walked() -> None:
    value = torch.ones((), requires_grad=True)
    for _ in range(20_000):
        value = value + 1
    assert len(_names(value.grad_fn, most=10**6)) == 20_000


# What nodes keep.


def _mlp() -> Tensor:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))(torch.ones(5, 3)).square().mean()


def _convolution() -> Tensor:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    return net(torch.ones(2, 1, 8, 8)).sum()


def _attention() -> Tensor:
    return nn.MultiheadAttention(4, 2)(*[torch.ones(3, 1, 4)] * 3, need_weights=False)[0].sum()


def _listed() -> Tensor:
    return torch.cat([torch.ones(3, requires_grad=True).exp(), torch.ones(2, requires_grad=True)])[[0, 4]].prod()


every_graph = pytest.mark.parametrize(
    "compute", [_mlp, _convolution, _attention, _listed], ids=lambda make: make.__name__
)


def _kept(loss: Tensor) -> dict[int, int]:
    found: dict[int, int] = {}
    for node in graph_nodes([loss.grad_fn], most=ALL):
        found |= saved_storages(node)
    return found


def _packed(compute: Callable[[], Tensor]) -> int:
    """A slow second opinion: the storages of all tensors that autograd packs, each once."""
    packed: list[Tensor] = []
    with saved_tensors_hooks(lambda tensor: packed.append(tensor) or tensor, lambda tensor: tensor):
        loss = compute()
    assert loss.requires_grad
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in packed}.values())


@every_graph
def test_what_nodes_keep_is_what_autograd_saved(compute: Callable[[], Tensor]) -> None:
    assert sum(_kept(compute()).values()) == _packed(compute) > 0


@every_graph
def test_after_backward_nothing_is_kept(compute: Callable[[], Tensor]) -> None:
    loss = compute()
    loss.backward()
    assert _kept(loss) == {}


def test_a_graph_that_backward_retains_keeps_what_it_kept() -> None:
    loss = _mlp()
    before = _kept(loss)
    loss.backward(retain_graph=True)
    assert _kept(loss) == before


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, other: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, other, None)
        return inputs**3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return 3 * ctx.saved_tensors[0] ** 2 * grads[0], None


def test_a_custom_function_keeps_what_it_saved_until_backward_has_freed_it() -> None:
    inputs, other = torch.ones(7, requires_grad=True), torch.ones(5)
    output = _Cube.apply(inputs, other)
    assert saved_storages(output.grad_fn) == {**storage(inputs), **storage(other)}
    output.sum().backward()
    assert saved_storages(output.grad_fn) == {}


def test_tensors_that_share_a_storage_are_counted_once_and_whole() -> None:
    base, weight = torch.ones(100), torch.ones(3, requires_grad=True)
    loss = weight * base[:3] + weight * base[50:53]
    assert _kept(loss) == storage(base) == {base.untyped_storage().data_ptr(): 400}


def test_reading_does_not_recompute_what_activation_checkpointing_left_out() -> None:
    runs = []

    def part(inputs: Tensor) -> Tensor:
        runs.append(1)
        return inputs.exp().sin()

    loss = checkpoint(part, torch.ones(3, requires_grad=True), use_reentrant=False).sum()
    assert _kept(loss) == {}
    assert len(runs) == 1
    loss.backward()
    assert len(runs) == 2, "it would have been noticed"


@pytest.mark.parametrize("hooks", [save_on_cpu, None])
def test_reading_runs_no_unpack_hook(hooks: Any) -> None:
    unpacked = []
    counting = saved_tensors_hooks(lambda tensor: tensor, lambda tensor: unpacked.append(1) or tensor)
    with hooks() if hooks else counting:
        loss = torch.ones(3, requires_grad=True).exp().sin().sum()
    assert _kept(loss) == {}
    assert unpacked == []
    loss.backward()
    assert bool(unpacked) == (hooks is None), "it would have been noticed"


# Storages and memory.

linux = pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="only Linux states it in /proc")


def test_a_view_has_the_storage_of_its_base() -> None:
    base = torch.ones(10, dtype=torch.float64)
    assert storage(base[3:5]) == storage(base) == {base.untyped_storage().data_ptr(): 80}


@pytest.mark.parametrize("tensor", [torch.empty(0), torch.empty(5, device="meta"), torch.ones(2, 2).to_sparse()])
def test_a_tensor_without_a_storage_has_no_bytes(tensor: Tensor) -> None:
    assert storage(tensor) == {}


@linux
def test_memory_in_use_grows_by_what_is_allocated() -> None:
    before = memory_in_use(torch.device("cpu"))
    block = torch.ones(2**24)  # 64 MiB, touched
    during = memory_in_use(torch.device("cpu"))
    assert 0.9 * 2**26 < during - before < 1.5 * 2**26
    del block


@linux
def test_free_memory_lies_between_what_nobody_uses_and_what_the_machine_has() -> None:
    unused, all_of_it = (os.sysconf(name) * os.sysconf("SC_PAGE_SIZE") for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"))
    assert unused / 2 < memory_free(torch.device("cpu")) < all_of_it


def test_of_a_device_without_memory_of_its_own_nothing_is_known() -> None:
    assert memory_in_use(torch.device("meta")) is None
    assert memory_free(torch.device("meta")) is None

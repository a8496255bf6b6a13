"""Norms of anything that a gradient can be, against sums in float64 and exact values."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_diagnostics.probes import copies_of, is_sharded, l2_norms, numbers_of
from lightning_diagnostics.probes.gradients import Norms

CPU = torch.device("cpu")
NEAR = 5e-6
"""What sums of squares in float32 may differ by, relative."""

LONG = 65_536
"""Elements from which on a tensor is summed by rows."""


def norms(*tensors: Tensor) -> list[float]:
    """The norm of each, in the order given."""
    found = l2_norms(tensors)
    assert set(found.each) == set(found.places) == {CPU}
    ordered: dict[int, float] = dict(zip(found.places[CPU], found.each[CPU].tolist(), strict=True))
    return [ordered[place] for place in range(len(tensors))]


def total(*tensors: Tensor, weights: list[float] | None = None) -> float:
    norms = l2_norms(tensors)
    (found,) = norms.total(norms.weights_on_devices(weights) if weights is not None else None)
    assert found.dtype == torch.float64
    assert found.shape == ()
    return float(found)


def exact(tensor: Tensor) -> float:
    """In float64, whatever it is of."""
    return float(tensor.double().square().sum().sqrt())


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Calls(TorchDispatchMode):
    """Counts the calls of operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


# Norms.


def test_norms_of_known_tensors() -> None:
    tensors = [torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.0, 12.0]), torch.tensor([[1.0]])]
    assert norms(*tensors) == [5.0, 12.0, 1.0]
    assert total(*tensors) == pytest.approx(13.038404810405298, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 7, 4_096, LONG, LONG + 1, LONG + 4_095, 30 * LONG])
def test_a_norm_has_the_digits_of_float32_or_more_however_long_the_tensor_is(size: int, dtype: torch.dtype) -> None:
    tensor = drawn(size, dtype=dtype, seed=size)
    (found,) = norms(tensor)
    assert found == pytest.approx(exact(tensor), rel=1e-12 if dtype == torch.float64 else NEAR)


@pytest.mark.parametrize("step", [1, 2])
def test_ten_million_elements_lose_no_digits(step: int) -> None:
    tensor = torch.full((10_000_019 * step,), 0.1)[::step]
    (found,) = norms(tensor)
    assert found == pytest.approx(float(tensor[0].double()) * math.sqrt(len(tensor)), rel=NEAR)
    assert abs(float(torch.linalg.vector_norm(tensor)) / found - 1) > 100 * NEAR  # in one sum


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_of_16_bits_are_of_32(dtype: torch.dtype) -> None:
    large, small = torch.full((4,), 60_000.0, dtype=dtype), torch.full((4,), 2.0**-14, dtype=dtype)
    assert l2_norms([large]).each[CPU].dtype == torch.float32
    assert norms(large, small) == [2 * float(large[0]), 2 * 2.0**-14]  # squares of either are beyond float16
    assert norms(torch.full((2 * LONG,), 60_000.0, dtype=dtype))[0] == pytest.approx(
        float(large[0]) * math.sqrt(2 * LONG), rel=NEAR
    )


def test_norms_of_64_bits_stay_so() -> None:
    tensor = torch.tensor([1.0, 2.0**-20], dtype=torch.float64)
    (found,) = norms(tensor)
    assert found == math.sqrt(1 + 2.0**-40)
    assert found != 1.0
    assert norms(torch.full((4,), 1e30, dtype=torch.float64)) == [2e30]


@pytest.mark.parametrize(
    ("value", "norm"), [(1e20, math.inf), (1e-30, 0.0), (math.inf, math.inf), (-math.inf, math.inf)]
)
def test_squares_beyond_float32_are_infinite_or_nothing(value: float, norm: float) -> None:
    assert norms(torch.full((2,), value)) == [norm]


@pytest.mark.parametrize("size", [3, 2 * LONG])
def test_one_nan_is_enough(size: int) -> None:
    tensor = torch.ones(size)
    tensor[-1] = math.nan
    good, bad = norms(torch.ones(4), tensor)
    assert good == 2.0
    assert math.isnan(bad)
    assert math.isnan(total(torch.ones(4), tensor))


def test_empty_tensors_and_single_numbers() -> None:
    assert norms(torch.ones(0), torch.tensor(-3.0), torch.ones(0, 5), torch.ones(2, 2)) == [0.0, 3.0, 0.0, 2.0]
    assert l2_norms([]).each == {}
    assert l2_norms([]).total() == []


def test_tensors_of_several_types_keep_their_places() -> None:
    types = [torch.float32, torch.bfloat16, torch.float64, torch.float32, torch.float16, torch.float64]
    tensors = [torch.full((4,), float(index + 1), dtype=dtype) for index, dtype in enumerate(types)]
    assert norms(*tensors) == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    assert sorted(l2_norms(tensors).places[CPU]) == list(range(6))
    assert total(*tensors) == pytest.approx(2 * math.sqrt(sum(n * n for n in range(1, 7))), rel=1e-12)


STRIDED = {
    "transposed": lambda t: t.t(),
    "every other row": lambda t: t[::2],
    "every other column": lambda t: t[:, ::2],
    "expanded": lambda t: t[:1].expand(300, -1),
    "channels last": lambda t: t.reshape(30, 10, -1, 2).to(memory_format=torch.channels_last),
    "turned round": lambda t: t.flip(0),
}


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_tensor_that_is_not_contiguous_has_the_norm_of_its_values(name: str, dtype: torch.dtype) -> None:
    tensor = STRIDED[name](drawn(300, 500, dtype=dtype))
    assert tensor.numel() > LONG
    assert norms(tensor)[0] == pytest.approx(exact(tensor), rel=NEAR)
    assert norms(tensor[:3])[0] == pytest.approx(exact(tensor[:3]), rel=NEAR)


@pytest.mark.parametrize("shape", [(8_000_000, 2), (2, 8_000_000), (8_000_000, 1, 2)])
def test_a_long_tensor_whose_dimensions_were_exchanged_loses_no_digits_and_is_not_copied(
    shape: tuple[int, ...],
) -> None:
    tensor = torch.full(shape, 0.1).transpose(0, -1)
    assert not tensor.is_contiguous()
    with Calls() as calls:
        (found,) = norms(tensor)
    assert found == pytest.approx(float(tensor.reshape(-1)[0].double()) * 4000, rel=NEAR)
    assert not {"clone", "copy_", "_to_copy", "_reshape_copy"} & set(calls.names)


def test_the_total_multiplies_norms_with_weights_by_place() -> None:
    tensors = [torch.tensor([3.0]), torch.tensor([8.0], dtype=torch.float64), torch.tensor([7.0])]
    assert total(*tensors, weights=[1.0, 0.5, 0.0]) == 5.0
    assert total(*tensors, weights=[0.0, 0.5, 0.0]) == 4.0


def test_the_total_of_many_small_norms_is_added_up_in_64_bits() -> None:
    vector = torch.full((1_000_000,), 0.1)
    (found,) = Norms({CPU: vector}, {CPU: list(range(len(vector)))}).total()
    assert float(found) == pytest.approx(float(vector[0].double()) * 1000, rel=1e-10)


@pytest.mark.parametrize("types", [1, 2, 3])
def test_there_is_one_fused_norm_for_each_type_and_nothing_is_waited_for(types: int) -> None:
    dtypes = [torch.float32, torch.float64, torch.bfloat16][:types]
    tensors = [torch.ones(4, dtype=dtype) for dtype in dtypes for _ in range(50)]
    with Calls() as calls:
        l2_norms(tensors).total()
    assert calls.names.count("_foreach_norm") == types
    assert "_local_scalar_dense" not in calls.names
    assert len(calls.names) < 12


def test_norms_record_no_gradient() -> None:
    weight = torch.ones(4, requires_grad=True)
    with torch.enable_grad():
        found = l2_norms([weight * 2])
        assert not found.each[CPU].requires_grad
        assert not found.total()[0].requires_grad


# What is read of a gradient.


def test_plain_tensors_and_parameters_are_read_as_they_are() -> None:
    tensor, parameter = torch.ones(2, 3), nn.Parameter(torch.ones(3))
    assert numbers_of(tensor) is tensor
    assert numbers_of(parameter) is parameter


def test_rows_of_a_sparse_gradient_that_occur_twice_are_added_up_first() -> None:
    table = nn.Embedding(10, 2, sparse=True)
    table(torch.tensor([3, 3, 5])).sum().backward()
    gradient = table.weight.grad
    assert gradient is not None
    with torch.no_grad():
        numbers = numbers_of(gradient)
    assert numbers is not None
    assert numbers.tolist() == [[2.0, 2.0], [1.0, 1.0]]
    assert norms(numbers)[0] == pytest.approx(exact(gradient.to_dense()), rel=1e-6)


def test_of_complex_numbers_both_parts_are_read() -> None:
    with torch.no_grad():
        numbers = numbers_of(torch.tensor([3 + 4j, 0 - 12j]))
    assert numbers is not None
    assert numbers.tolist() == [[3.0, 4.0], [0.0, -12.0]]
    assert norms(numbers) == [13.0]


class _Marked(Tensor):
    """A subclass that changes nothing."""


class _Wrapped(Tensor):
    """A subclass with arithmetic of its own, as quantised weights have."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("nothing is to be computed with it")


def test_a_subclass_that_computes_as_a_tensor_does_is_read() -> None:
    tensor = torch.tensor([3.0, 4.0]).as_subclass(_Marked)
    numbers = numbers_of(tensor)
    assert numbers is tensor
    assert norms(numbers) == [5.0]


UNREADABLE = {
    "a subclass with arithmetic of its own": lambda: torch.ones(2).as_subclass(_Wrapped),
    "on no device": lambda: torch.ones(2, device="meta"),
    "whole numbers": lambda: torch.ones(2, dtype=torch.int64),
    "compressed rows": lambda: torch.eye(3).to_sparse_csr(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.strided),
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.filterwarnings("ignore:Sparse .* support is in beta", "ignore:The PyTorch API of nested tensors")
def test_what_cannot_be_read_is_not_read_wrongly(name: str) -> None:
    assert numbers_of(UNREADABLE[name]()) is None


# Tensors that are spread over processes.


class _Placement:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def is_partial(self) -> bool:
        return self.kind == "partial"

    def is_replicate(self) -> bool:
        return self.kind not in ("partial", "shard", "striped")


class _Mesh:
    """Three by two processes."""

    def size(self, axis: int) -> int:
        return (3, 2)[axis]


class _Spread(Tensor):
    """What is used of a DTensor, without processes."""

    _local_tensor: Tensor
    placements: tuple[_Placement, ...]
    device_mesh = _Mesh()


def _spread(*kinds: str) -> Tensor:
    whole = torch.ones(6, 2).as_subclass(_Spread)
    whole._local_tensor, whole.placements = torch.tensor([[3.0, 4.0]]), tuple(map(_Placement, kinds))
    return whole


@pytest.fixture
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed import tensor

    monkeypatch.setattr(tensor, "DTensor", _Spread)


@pytest.mark.usefixtures("_stand_in")
def test_of_a_spread_tensor_the_part_of_this_process_is_read() -> None:
    assert is_sharded(_spread("shard", "shard"))
    numbers = numbers_of(_spread("shard", "shard"))
    assert numbers is not None
    assert numbers.tolist() == [[3.0, 4.0]]


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize(
    ("kinds", "copies"),
    [
        (("shard", "shard"), 1.0),
        (("shard", "replicate"), 2.0),
        (("replicate", "shard"), 3.0),
        (("replicate", "replicate"), 6.0),
        (("partial", "shard"), 0.0),
        (("shard", "partial"), 0.0),
        (("striped", "shard"), 1.0),
        (("striped", "replicate"), 2.0),
        (("replicate", "striped"), 3.0),
    ],
)
def test_the_copies_of_a_part_are_counted_by_its_placements(kinds: tuple[str, str], copies: float) -> None:
    assert copies_of(_spread(*kinds), processes=6) == copies


@pytest.mark.usefixtures("_stand_in")
def test_placements_of_torch_are_understood() -> None:
    from torch.distributed.tensor import Partial, Replicate, Shard
    from torch.distributed.tensor.placement_types import _StridedShard

    tensor: Any = _spread()
    kinds = ((Shard(0), 1.0), (_StridedShard(0, split_factor=2), 1.0), (Replicate(), 3.0), (Partial(), 0.0))
    for kind, copies in kinds:
        tensor.placements = (kind, Shard(0))
        assert copies_of(tensor, processes=6) == copies


def test_a_plain_tensor_is_whole_on_every_process() -> None:
    assert not is_sharded(torch.ones(2))
    assert copies_of(torch.ones(2), processes=6) == 6.0


def test_nothing_is_sharded_where_dtensors_are_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "torch.distributed.tensor", raising=False)
    assert not is_sharded(torch.ones(2))

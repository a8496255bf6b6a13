"""What a look reads of the gradients and weights of one optimizer, beside the norms of every step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_diagnostics.probes import BUCKETS, Deferred, Fetched, Slot, histogram, l2_norms, numbers_of, used_rates

Key = TypeVar("Key")

COPIED = 16_777_216
"""Weights that are copied at one look at the most; of a larger model the parameters take turns."""


@dataclass(eq=False)
class Look:
    """What was read at one look, still on its device.

    Attributes:
        zeros: Of each parameter, by ``id``: zero gradients.
        copies: Weights before the step, until it is over.
        weights: The norm of the weights before the step, by ``id``.
        updates: The norm of the weights' change, by ``id``.
        pictures: Histograms of gradient and weight, by ``id``.
        rates: The learning rates of the optimizer's groups.
    """

    zeros: dict[int, Slot] = field(default_factory=dict)
    copies: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)
    weights: dict[int, Slot] = field(default_factory=dict)
    updates: dict[int, Slot] = field(default_factory=dict)
    pictures: dict[int, tuple[Slot, Slot]] = field(default_factory=dict)
    rates: list[Slot | float] = field(default_factory=list)


def norms_by_key(deferred: Deferred, tensors: Mapping[Key, Tensor]) -> dict[Key, Slot]:
    """Where the norm of each of several tensors is to be found, once fetched."""
    keys, found = list(tensors), l2_norms(list(tensors.values()))
    slots: dict[Key, Slot] = {}
    for device, vector in found.each.items():
        whole = deferred.put(vector)
        for index, place in enumerate(found.places[device]):
            slots[keys[place]] = Slot(whole.device, whole.start + index, 1)
    return slots


@dataclass(eq=False)
class Looking:
    """Reads what a look is about; every number goes to ``deferred``.

    Attributes:
        deferred: Where numbers wait.
        pictured: The ``id`` of the parameters whose histograms are wanted.
    """

    deferred: Deferred
    pictured: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self._turn: dict[int, int] = {}

    @torch.no_grad()
    def begin(
        self, optimizer: Optimizer, parameters: Sequence[Tensor], gradients: Sequence[Tensor], scale: Tensor | None
    ) -> Look:
        """A step is about to move the weights."""
        look = Look(rates=self._rates(optimizer))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            numbers, weights = numbers_of(gradient), numbers_of(parameter)
            if numbers is None or weights is None:
                continue
            # Rows that a sparse gradient leaves out are zeros, too.
            look.zeros[id(parameter)] = self.deferred.put(weights.numel() - torch.count_nonzero(numbers))
            if id(parameter) in self.pictured and numbers.numel() and weights.numel():
                plain = numbers if scale is None else numbers / scale.to(numbers.device)
                look.pictures[id(parameter)] = (self._picture(plain), self._picture(weights))
        self._copy(optimizer, parameters, look)
        return look

    @torch.no_grad()
    def end(self, look: Look) -> None:
        """The weights have moved."""
        if not look.copies:
            return
        keys = [key for key, _, _ in look.copies]
        copies = [copy for _, copy, _ in look.copies]
        for copy, (_, _, weights) in zip(copies, look.copies, strict=True):
            copy.sub_(weights)
        look.updates = norms_by_key(self.deferred, dict(zip(keys, copies, strict=True)))
        look.copies = []

    def _copy(self, optimizer: Optimizer, parameters: Sequence[Tensor], look: Look) -> None:
        matrices = [(p, numbers) for p in parameters if p.dim() >= 2 and (numbers := numbers_of(p)) is not None]
        if not matrices:
            return
        first = self._turn.get(id(optimizer), 0) % len(matrices)
        room, taken = COPIED, 0
        for parameter, numbers in matrices[first:] + matrices[:first]:
            numbers = numbers[:: -(-numbers.numel() // COPIED) or 1]  # of one that is larger still, evenly spread rows
            if numbers.numel() > room:
                break
            room -= numbers.numel()
            taken += 1
            look.copies.append((id(parameter), numbers.clone(), numbers))
        if taken < len(matrices):
            self._turn[id(optimizer)] = first + max(1, taken)  # one with a row that is larger still is passed over
        look.weights = norms_by_key(self.deferred, {key: copy for key, copy, _ in look.copies})

    def _picture(self, numbers: Tensor) -> Slot:
        """Exponent, smallest, largest, sum, sum of squares, and the counts of a histogram."""
        exponent, counts = histogram(numbers.reshape(1, -1), signed=True)
        low, high = torch.aminmax(numbers)
        wide = torch.promote_types(numbers.dtype, torch.float32)
        squares = torch.linalg.vector_norm(numbers, dtype=wide).square()
        sums = torch.stack([low.to(wide), high.to(wide), numbers.sum(dtype=wide), squares])
        return self.deferred.put(torch.cat([exponent.reshape(1), sums, counts.reshape(-1)]))

    def _rates(self, optimizer: Optimizer) -> list[Slot | float]:
        """The learning rates of its groups; those that are tensors come with the rest."""
        rates = used_rates(optimizer)
        return [self.deferred.put(rate) if isinstance(rate, Tensor) else rate for rate in rates]


@dataclass(frozen=True)
class Picture:
    """A histogram on the host.

    Attributes:
        exponent: Its buckets reach from the negative of two to this power to two to this power.
        low: The smallest value.
        high: The largest value.
        total: The sum of the values.
        squares: The sum of their squares.
        counts: In each bucket; of at most 4,096 values, evenly spread.
    """

    exponent: int
    low: float
    high: float
    total: float
    squares: float
    counts: tuple[float, ...]

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Picture":
        """From what `Looking` has put together."""
        assert len(numbers) == 5 + BUCKETS
        exponent, low, high, total, squares, *counts = numbers
        return cls(int(exponent), low, high, total, squares, tuple(counts))


@dataclass(frozen=True)
class ParameterLook:
    """What a look has read of a parameter; of one that is spread over processes, of all of them once added up.

    Attributes:
        zeros: Gradients that are exactly zero.
        weight: The squared norm of the weights before the step; None if it was not its turn.
        update: The squared norm of their change.
        gradients: Histogram of the gradients; None where none was asked for.
        weights: Histogram of the weights.
    """

    zeros: float
    weight: float | None = None
    update: float | None = None
    gradients: Picture | None = None
    weights: Picture | None = None


def fetched(look: Look, numbers: Fetched) -> tuple[dict[int, ParameterLook], float | None]:
    """What a look has read, by ``id`` of the parameters, and the largest learning rate."""
    rates = [numbers[rate][0] if isinstance(rate, Slot) else rate for rate in look.rates]

    def square(slots: dict[int, Slot], key: int) -> float | None:
        return numbers[slots[key]][0] ** 2 if key in slots else None

    def picture(key: int, which: int) -> Picture | None:
        return Picture.of(numbers[look.pictures[key][which]]) if key in look.pictures else None

    found = {
        key: ParameterLook(
            numbers[slot][0],
            square(look.weights, key) if key in look.updates else None,
            square(look.updates, key),
            picture(key, 0),
            picture(key, 1),
        )
        for key, slot in look.zeros.items()
    }
    return found, max(rates, default=None)

"""What optimizers and their groups are called, and which of them have an automatic warmup."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch.optim import Optimizer

_OTHER_BETAS = re.compile("radam|lion|adamax|adan(?!orm)", re.IGNORECASE)
"""Of which the second beta is no decay rate of squared gradients, or that warm up by themselves (RAdam)."""


def optimizer_names(optimizers: Sequence[Any]) -> list[str]:
    """The class of each optimizer, numbered from the second of a kind on."""
    seen: Counter[str] = Counter()
    names: list[str] = []
    for optimizer in optimizers:
        kind = type(optimizer).__name__
        names.append(f"{kind}-{seen[kind]}" if seen[kind] else kind)
        seen[kind] += 1
    return names


def group_names(name: str, groups: Sequence[dict[str, Any]]) -> list[str]:
    """What the groups of an optimizer are called: as the program names them, or by their place where it does not."""
    if len(groups) == 1 and not groups[0].get("name"):
        return [name]
    given = [str(group.get("name") or f"pg{place}") for place, group in enumerate(groups, start=1)]
    twice = {one for one, count in Counter(given).items() if count > 1}
    return [f"{name}/{f'pg{place}' if one in twice else one}" for place, one in enumerate(given, start=1)]


def beta2(optimizer: Optimizer, group: dict[str, Any]) -> float | None:
    """The decay rate of the average of squared gradients; None if the optimizer has none, or is no kind of Adam."""
    betas = group.get("betas")
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        return None
    if _means_other(type(optimizer).__name__):
        return None
    value = float(betas[1])
    return value if 0 < value < 1 else None


@lru_cache
def _means_other(name: str) -> bool:
    return _OTHER_BETAS.search(name) is not None

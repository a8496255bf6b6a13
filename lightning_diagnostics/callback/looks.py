"""Which training batches are looked at: a function of batch index, epoch length and cadence, and of nothing else."""

SPREAD = 8
"""Looks spread over every epoch, however short (DESIGN: at least eight)."""


def is_look(batch_idx: int, *, batches: int | None, every: int) -> bool:
    """Whether a batch is looked at.

    The first and the last of an epoch are, every ``every``-th, and at least `SPREAD` spread evenly over it. An epoch
    whose length is unknown is looked at in batches 1, 2, 4, 8, ... and every ``every``-th instead.

    Args:
        batch_idx: Index in the epoch, from 0.
        batches: Batches in the epoch; None if unknown.
        every: The cadence.

    Example:
        >>> [i for i in range(20) if is_look(i, batches=20, every=50)]
        [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 19]
    """
    if batch_idx % every == 0:
        return True
    if batches is None:
        return batch_idx & (batch_idx - 1) == 0
    return batch_idx == batches - 1 or batch_idx % max(1, batches // SPREAD) == 0

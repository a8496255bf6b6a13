"""What the best of n trials is worth: expected and median best, its spread, and bands around the median."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (scipy has no type stubs, and numpy's are partly unknown)
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from lightning_diagnostics.statistics._arguments import probability, series

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[tuple[int], np.dtype[np.float64]]

Mode = Literal["min", "max"]
Estimator = Literal["plugin", "unbiased", "median"]
BandMethod = Literal["ld", "ld-highest-density", "ks", "dkw"]

LARGEST_EXACT = 10_000
"""The most trials for which `cdf_band` has the exact bands ``"ld"`` and ``"ld-highest-density"``."""

_ROUNDING = 1e-12  # of a level: 0.5 ** (1 / n) is rounded, and may come out above the share of trials that it is
_HALVINGS = 60


def expected_validation_performance(
    scores: Iterable[float], *, mode: Mode = "max", estimator: Estimator = "plugin", failed: int = 0
) -> "Floats":
    """What the best of n trials is worth, for each n up to the number of trials (Dodge et al. 2019).

    With the N scores in order, the worst first:

    - ``"plugin"`` is the mean of the best of n draws with replacement from the scores: what is called expected
      validation performance since Dodge et al. (2019, "Show your work"). It is pessimistic, by some per cent of the
      range near n = N, where it is below the best score that was seen.
    - ``"unbiased"`` is the mean over all sets of n of the trials (Tang et al. 2020, "Showing your work doesn't always
      work"). At n = N it is the best score.
    - ``"median"`` is the smallest score that the best of n draws with replacement is at most (for ``"min"``: at most
      as small as) with a probability of one half or more (Lourie et al. 2024).

    Curves of sweeps with different numbers of trials are compared by the unbiased one or the median, since the bias of
    the plug-in depends on n / N. All of them take trials to be independent draws, as those of a random search are.

    Args:
        scores: One for each trial, N of them, finite, in the unit of the metric.
        mode: ``"max"`` where larger is better, ``"min"`` where smaller is.
        estimator: ``"plugin"``, ``"unbiased"`` or ``"median"``.
        failed: Trials that have no score and are worse than all that do; with the median only.

    Returns:
        An array of N + ``failed`` numbers in the unit of the metric; that at index n - 1 is of n trials. NaN where the
        median best of n has failed itself.

    Raises:
        ValueError: if there are no trials, a score is not finite, or a word or a number is not allowed.

    Example:
        >>> expected_validation_performance([0.2, 0.6]).round(3).tolist()
        [0.4, 0.5]
        >>> expected_validation_performance([0.2, 0.6], estimator="unbiased").round(3).tolist()
        [0.4, 0.6]
    """
    # Validate the arguments.
    import numpy as np

    values = _sorted(scores, mode, failed)
    if estimator not in get_args(Estimator):
        raise ValueError(f"estimator={estimator!r}: allowed are {', '.join(map(repr, get_args(Estimator)))}")
    if failed and estimator != "median":
        raise ValueError(f"failed={failed!r}: allowed is 0 with estimator={estimator!r}, since no mean has a failure")

    # Compute the curve.
    if estimator == "median":
        count = len(values) + failed
        points = _points(values, mode, failed, (-math.inf, math.inf))
        return _at_median(points, np.append(np.arange(count + 1) / count, 1.0), mode)
    best, gaps = _by_loss(values, mode)
    chances = _chances(len(values), with_replacement=estimator == "plugin")
    lost = np.array([float(gaps @ below) for below in chances])
    return np.array(best) - lost if mode == "max" else np.array(best) + lost


def best_of_n_spread(scores: Iterable[float], *, mode: Mode = "max") -> "Floats":
    """The standard deviation of the best of n draws with replacement from the scores, for each n up to N.

    It tells how far one search of n trials may be from the expected one, and is no error of the curve; Dodge et al.
    (2019) draw it as ``var``.

    Args:
        scores: One for each trial, N of them, finite, in the unit of the metric.
        mode: ``"max"`` where larger is better, ``"min"`` where smaller is.

    Returns:
        An array of N numbers in the unit of the metric; that at index n - 1 is of n trials.

    Raises:
        ValueError: if there are no scores, one is not finite, or the mode is not known.

    Example:
        >>> best_of_n_spread([0.2, 0.6]).round(3).tolist()
        [0.2, 0.173]
    """
    # Validate the arguments.
    import numpy as np

    values = _sorted(scores, mode, 0)

    # Compute the second moment about the best, so that nothing cancels.
    _, gaps = _by_loss(values, mode)
    whole = float(gaps.sum()) or 1.0
    gaps = gaps / whole  # so that no square is too large
    behind = np.concatenate([np.cumsum(gaps[::-1])[::-1], [0.0]])  # how far each score is behind the best
    squares = behind[:-1] ** 2 - behind[1:] ** 2
    means = [(float(gaps @ below), float(squares @ below)) for below in _chances(len(values), with_replacement=True)]
    return np.array([whole * math.sqrt(max(0.0, square - mean**2)) for mean, square in means])


def tuning_curve_band(
    scores: Iterable[float],
    *,
    mode: Mode = "max",
    confidence: float = 0.8,
    method: BandMethod = "ld",
    support: tuple[float, float] = (-math.inf, math.inf),
    failed: int = 0,
) -> tuple["Floats", "Floats"]:
    """A band around the median best of n that holds for all n at once (Lourie et al. 2024).

    A band around the distribution of scores (see `cdf_band`) is read at the quantile of the median. Ties make it wider
    than it has to be, never narrower.

    Args:
        scores: One for each trial, finite, in the unit of the metric.
        mode: ``"max"`` where larger is better, ``"min"`` where smaller is.
        confidence: With which the whole band holds, between 0 and 1.
        method: Of the band around the distribution; see `cdf_band`.
        support: The least and the largest value that the metric can have. What nothing is known of ends there.
        failed: Trials that have no score and are worse than all that do.

    Returns:
        The lower and the upper end, an array each of as many numbers as there are trials, with the failed ones. NaN
        where the end is a trial that failed; infinite where the support is.

    Raises:
        ValueError: if there are no trials, a score is not finite or not in the support, or a word or a number is not
            allowed.

    Example:
        >>> low, high = tuning_curve_band([0.1, 0.8, 0.5, 0.4, 0.6], support=(0.0, 1.0))
        >>> low.tolist(), high.tolist()
        ([0.0, 0.4, 0.4, 0.4, 0.5], [1.0, 1.0, 1.0, 1.0, 1.0])
    """
    # Validate the arguments.
    import numpy as np

    values = _sorted(scores, mode, failed)
    least, largest = support
    if not (least <= values[0] and values[-1] <= largest if len(values) else least <= largest):
        raise ValueError(f"support={support!r}: allowed is a pair of numbers with all scores between them")

    # Read the band at the median.
    lower, upper = cdf_band(len(values) + failed, confidence=confidence, method=method)
    points = _points(values, mode, failed, support)
    return _at_median(points, np.append(upper, 1.0), mode), _at_median(points, np.append(lower, 1.0), mode)


def cdf_band(count: int, *, confidence: float = 0.8, method: BandMethod = "ld") -> tuple["Floats", "Floats"]:
    """A band around a distribution that holds for all values at once, from the number of draws alone.

    - ``"dkw"``: as many to either side, by the inequality of Dvoretzky, Kiefer and Wolfowitz with the constant of
      Massart (1990); wider than it has to be.
    - ``"ks"``: the same with the exact critical value of Kolmogorov and Smirnov.
    - ``"ld"``: narrower at the ends, where the best trials are: of each order statistic the equal-tailed interval of
      its beta distribution, with the pointwise coverage by which all of them hold at once (Learned-Miller and DeStefano
      2008), computed exactly. ``"ld-highest-density"`` takes the shortest interval instead.

    Args:
        count: The number N of independent draws, 1 or more; for the two latter ones at most `LARGEST_EXACT`.
        confidence: With which the whole band holds, between 0 and 1.
        method: ``"ld"``, ``"ld-highest-density"``, ``"ks"`` or ``"dkw"``.

    Returns:
        The lower and the upper level, an array each of N + 1 shares from 0 to 1: from the j-th smallest value (from the
        least possible one for j = 0) to the one above it.

    Raises:
        ValueError: if an argument is outside of that.

    Example:
        >>> lower, upper = cdf_band(2, method="dkw", confidence=0.5)
        >>> lower.round(3).tolist(), upper.round(3).tolist()
        ([0.0, 0.0, 0.411], [0.589, 1.0, 1.0])
    """
    # Validate the arguments.
    import numpy as np

    if isinstance(count, bool) or count < 1:
        raise ValueError(f"count={count!r}: allowed is 1 or more")
    probability("confidence", confidence)
    if method not in get_args(BandMethod):
        raise ValueError(f"method={method!r}: allowed are {', '.join(map(repr, get_args(BandMethod)))}")
    if method.startswith("ld") and count > LARGEST_EXACT:
        raise ValueError(f"count={count!r}: allowed is at most {LARGEST_EXACT} with method={method!r}; take 'ks'")

    # Compute the levels.
    if method.startswith("ld"):
        low, high = _exact_intervals(count, confidence, method == "ld")
        return np.concatenate([[0.0], low]), np.concatenate([high, [1.0]])
    levels = np.arange(count + 1) / count
    if method == "dkw":
        margin = math.sqrt(math.log(2 / (1 - confidence)) / (2 * count))
    else:
        from scipy.stats import kstwo  # pyright: ignore[reportMissingTypeStubs] # it has none

        margin = float(kstwo(count).ppf(confidence))
    return np.clip(levels - margin, 0, 1), np.clip(levels + margin, 0, 1)


def ld_pointwise_coverage(count: int, confidence: float, *, equal_tailed: bool = True) -> float:
    """The coverage that each interval of `cdf_band` needs, so that all of them hold at once with a confidence.

    Args:
        count: The number of draws, from 1 to `LARGEST_EXACT`.
        confidence: With which all hold, between 0 and 1.
        equal_tailed: Whether the intervals are equal-tailed, or the shortest ones.

    Returns:
        A probability, at least ``confidence``, by root finding to some 1e-10.

    Raises:
        ValueError: if an argument is outside of that.

    Example:
        >>> round(ld_pointwise_coverage(2, 0.5), 6)
        0.684732
    """
    # Validate the arguments.
    if not 1 <= count <= LARGEST_EXACT:
        raise ValueError(f"count={count!r}: allowed is 1 to {LARGEST_EXACT}")
    probability("confidence", confidence)

    # Solve for it, on a logarithmic scale of what the coverage leaves; at least a share of it for each interval.
    if count == 1:
        return confidence
    from scipy.optimize import brentq  # pyright: ignore[reportMissingTypeStubs] # it has none

    def excess(logarithm: float) -> float:
        low, high = _intervals(count, 1 - math.exp(logarithm), equal_tailed)
        return _simultaneous(low, high) - confidence

    rest = 1 - confidence
    solve = cast(Any, brentq)
    return 1 - math.exp(solve(excess, math.log(rest / count) - 1e-9, math.log(rest), xtol=1e-11, rtol=1e-12))


# The common part of the estimators: the chance that the best of n is not above each score.


def _sorted(scores: Iterable[float], mode: str, failed: int) -> "Floats":
    """The scores in ascending order, after a check of the arguments that the functions have in common."""
    import numpy as np

    values = [float(score) for score in scores]
    series("scores", values)
    if mode not in get_args(Mode):
        raise ValueError(f"mode={mode!r}: allowed are 'min', 'max'")
    if isinstance(failed, bool) or failed < 0:
        raise ValueError(f"failed={failed!r}: allowed is 0 or more")
    if not values and not failed:
        raise ValueError(f"scores={values!r}: allowed is one score or more")
    return np.sort(np.array(values, dtype=float))


def _by_loss(values: "Floats", mode: str) -> tuple[float, "Floats"]:
    """The best score, and by how much each score is worse than the next better one, the worst score first."""
    import numpy as np

    ordered = values if mode == "max" else values[::-1]
    return float(ordered[-1]), np.abs(np.diff(ordered))


def _chances(count: int, *, with_replacement: bool) -> Iterable["Floats"]:
    """For n = 1 ... N the chance that the best of n draws is not above the i-th worst score, for i = 1 ... N - 1."""
    import numpy as np

    ranks = np.arange(1, count, dtype=float)
    below = np.ones(count - 1)
    for drawn in range(count):
        share = ranks / count if with_replacement else np.maximum(ranks - drawn, 0) / (count - drawn)
        below = below * share
        yield below


def _points(values: "Floats", mode: str, failed: int, support: tuple[float, float]) -> "Floats":
    """The scores between the ends of the support; trials that failed stand at the worse end, as NaN."""
    import numpy as np

    least, largest = support
    nothing = np.full(failed, math.nan)
    if mode == "max":
        return np.concatenate([[math.nan if failed else least], nothing, values, [largest]])
    return np.concatenate([[least], values, nothing, [math.nan if failed else largest]])


def _at_median(points: "Floats", levels: "Floats", mode: str) -> "Floats":
    """For each n up to N the first of N + 2 points at which a distribution reaches the median best of n.

    Args:
        points: The least possible value, the N scores in ascending order, and the largest possible value.
        levels: The distribution function from each point on, ascending; it is 1 at the last one.
        mode: Which scores are the better ones.
    """
    import numpy as np

    numbers = np.arange(1, len(points) - 1)
    below = 0.5 ** (1 / numbers)  # by which the best of n is at its median where larger is better
    reached = below if mode == "max" else -np.expm1(math.log(0.5) / numbers)
    return points[np.searchsorted(levels, reached - _ROUNDING)]


# The exact bands.


@lru_cache(maxsize=64)
def _exact_intervals(count: int, confidence: float, equal_tailed: bool) -> tuple["Floats", "Floats"]:
    coverage = ld_pointwise_coverage(count, confidence, equal_tailed=equal_tailed)
    return _intervals(count, coverage, equal_tailed)


def _intervals(count: int, coverage: float, equal_tailed: bool) -> tuple["Floats", "Floats"]:
    """For each order statistic of draws between 0 and 1 the interval that has it with a probability."""
    import numpy as np
    from scipy.special import betaincinv  # pyright: ignore[reportMissingTypeStubs] # it has none

    ranks = np.arange(1, count + 1, dtype=float)
    others = count + 1 - ranks
    rest = 1 - coverage

    def ends(below: "Floats") -> tuple["Floats", "Floats"]:
        """The interval with so much of what it leaves below it; the upper end by the tail above, which is exact."""
        return betaincinv(ranks, others, below), 1 - betaincinv(others, ranks, rest - below)

    if equal_tailed or count == 1:  # of one draw no interval is the shortest
        return ends(np.full(count, rest / 2))

    # The density at both ends of the shortest interval is the same; where it only falls or rises, an end is 0 or 1.
    least, most = np.zeros(count), np.full(count, rest)
    for _ in range(_HALVINGS):
        middle = (least + most) / 2
        low, high = ends(middle)
        with np.errstate(all="ignore"):
            steeper = (ranks - 1) * np.log(high / low) + (others - 1) * np.log((1 - high) / (1 - low)) > 0
        steeper = np.where(ranks == 1, False, np.where(others == 1, True, steeper))
        least, most = np.where(steeper, middle, least), np.where(steeper, most, middle)
    low, high = ends((least + most) / 2)
    return np.where(ranks == 1, 0.0, low), np.where(others == 1, 1.0, high)


def _simultaneous(low: "Floats", high: "Floats") -> float:
    """The chance that each order statistic of N draws between 0 and 1 lies in its interval.

    The number of draws up to t is, given that it is N at t = 1, that of a Poisson process. Its distribution is carried
    from one end of an interval to the next (Khmaladze and Shinjikashvili 2001; Moscovich and Nadler 2017), where the
    numbers that the interval forbids are left out. All terms are positive, so nothing cancels.
    """
    import numpy as np
    from scipy.special import gammaln  # pyright: ignore[reportMissingTypeStubs] # it has none

    count = len(low)
    factorials = gammaln(np.arange(count + 1) + 1.0)

    def arrivals(span: float, most: int) -> "Floats":
        """The chances of 0 ... most draws in a span."""
        if span <= 0:
            return np.eye(1, most + 1)[0]
        numbers = np.arange(most + 1)
        return np.exp(numbers * math.log(count * span) - count * span - factorials[: most + 1])

    # At low[j] there may be at most j draws, at high[j] there must be j + 1 (j from 0).
    stops = sorted([*((at, 0, rank) for rank, at in enumerate(low)), *((at, 1, rank) for rank, at in enumerate(high))])
    begun = ended = 0  # so many draws there may be beyond the last stop, and so many there must be
    chances, fewest, now = np.ones(1), 0, 0.0
    for at, is_end, _ in stops:
        allowed = begun  # more have not been let in so far
        chances = np.convolve(chances, arrivals(at - now, allowed - fewest))[: allowed - fewest + 1]
        if is_end:
            ended += 1
            if ended > fewest:
                chances, fewest = chances[ended - fewest :], ended
        else:
            begun += 1
        now = at
        if not len(chances):
            return 0.0
    chances = np.convolve(chances, arrivals(1 - now, count - fewest))[: count - fewest + 1]
    whole = math.exp(count * math.log(count) - count - factorials[count])
    return float(chances[-1]) / whole if len(chances) == count - fewest + 1 else 0.0

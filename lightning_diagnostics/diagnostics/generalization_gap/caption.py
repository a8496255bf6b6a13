"""What the charts do not say: how sure the numbers are, and how many samples would make them surer."""

from collections.abc import Mapping

from lightning_diagnostics import statistics
from lightning_diagnostics.diagnostics.generalization_gap.measure import Caption, MetricGap, Samples
from lightning_diagnostics.tensorboard import Text

_HEAD = "| metric | training | validation | ± | gap | 95 % of the gap | change | needs |"
_LEGEND = (
    "±: half of the 95 % interval of validation. Change: of validation, since the one before. Needs: the samples "
    "that would make ± as small as that change."
)


def caption(
    gaps: list[MetricGap], widths: Mapping[str, float | None], counts: Mapping[str, int], samples: Samples
) -> Caption:
    """The table of one validation.

    Args:
        gaps: The metrics.
        widths: Half the width of the interval of each validation metric.
        counts: How many validation samples each is of.
        samples: How many there were.
    """
    lines = [_HEAD, "|---" * 8 + "|"]
    for each in gaps:
        width, change = widths.get(each.layer), each.validation_change
        band = "" if each.gap_low is None or each.gap_high is None else f"{each.gap_low:.3g} to {each.gap_high:.3g}"
        cells = [each.layer, _number(each.training), _number(each.validation), _number(width), _number(each.gap)]
        cells += [band, _number(change), _needed(counts.get(each.layer), width, change)]
        lines.append("| " + " | ".join(cells) + " |")
    much = f"{samples.validation or 0:,} validation samples, {samples.training or 0:,} training samples."
    return Caption(Text("\n".join([*lines, "", much, "", _LEGEND])))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _needed(samples: int | None, width: float | None, change: float | None) -> str:
    if not samples or not width or not change:
        return ""
    if width <= abs(change):
        return "enough"
    return f"{statistics.samples_for_half_width(samples, width, abs(change)):,}"

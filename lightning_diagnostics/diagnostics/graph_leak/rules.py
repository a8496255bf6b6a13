"""What is wrong when graphs outlive their step: numbers in, findings out. No torch."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_diagnostics.findings import Diagnosis, Severity, TooEarly, Verdict, limit, rule
from lightning_diagnostics.findings.finding import Plain
from lightning_diagnostics.statistics import projected_share

if TYPE_CHECKING:
    from lightning_diagnostics.diagnostics.graph_leak.measure import Retention

_WORTH_SAYING = 0.01  # shares of the free memory below it are left out of the message
_MANY_TIMES = 1e6  # no share is larger, so that a file of JSON can hold it where nothing is free
_AHEAD = {"run": "the rest of the run", "epoch": "the rest of the epoch", "clearing": "the steps until it is cleared"}


@dataclass(frozen=True)
class Limits:
    """The limits of this room."""

    steps: int = limit(
        5,
        key="retained-graph.steps",
        meaning="earlier steps older than min_age whose graphs must be alive at once before anything is said",
        source="arithmetic: with min_age=2 a verdict falls in the seventh step; a program that keeps a few steps "
        "for a moving average or a truncated back-propagation over up to five steps stays below it",
        low=1,
    )
    share_of_free: float = limit(
        0.5,
        key="retained-graph.share_of_free",
        meaning="share of the free memory that the growth may take in what lies ahead before it is an ERROR: the rest "
        "of the run, or of the epoch until it has outlived one, or the steps until it is cleared once it was",
        source="arithmetic: half of what is free is left for everything else that still grows (caches, workers)",
        high=1.0,
    )
    horizon: int = limit(
        100_000,
        key="retained-graph.horizon",
        meaning="steps ahead for which a run without an end is projected",
        source="convention: a day at about one step a second",
        low=1,
        high=1e12,
    )
    closes_after: int = limit(
        64,
        key="retained-graph.closes_after",
        meaning="steps without a retained graph, or without growth, after which, and after three looks, a finding is "
        "closed (it is asked once in so many steps)",
        source="arithmetic: an epoch that clears its list at its end is full again after seven steps; nine times that",
        low=1,
    )


@rule(code="MEM101", name="retained-graph", severities=(Severity.INFO, Severity.WARNING, Severity.ERROR))
def retained_graph(measured: "Retention", limits: Limits) -> Verdict:
    """Autograd graphs of finished training steps are still alive, and there are more of them with every step.

    ## What it means
    A tensor that was computed with gradients carries the graph of its computation. Storing it (``self.running_loss +=
    loss``, ``self.losses.append(loss)``) stores the graph of that step, and with it whatever the graph still needs. The
    finding names the attribute or variable that holds the graphs, and since which step.

    ## Why it matters
    Memory grows with every step until the run dies, often hours later and in another line of code. Reading such a sum
    or calling ``backward`` on it also gets slower with every step.

    ## What to do
    Store a number, not a graph: ``loss.detach()`` (stays on the device, costs nothing) or ``loss.item()`` (waits for
    the device). A hidden state that is carried from batch to batch is cut with ``hidden.detach()``. With
    ``torchmetrics``, pass detached values to ``update``.

    ## When it is wrong
    Programs that keep graphs on purpose over many steps (an unrolled meta-gradient, truncated back-propagation over
    more than five batches) are told apart by their owner only: set ``min_age`` above the number of steps they span. A
    ``deque`` with a ``maxlen`` is bounded and therefore only a note. A list that is cleared at the end of every epoch
    is a finding all the same: until then it holds the graphs of all its steps, and detached numbers would do. The place
    may be a second holder of the same tensor. Bytes count what the graph itself keeps, on an older torch without what
    its nodes saved; what a custom C++ extension keeps is not seen. Graphs that share no node with a loss on which
    ``backward`` was called are not seen either.
    """
    return None if _of_activations(measured) else _verdict(measured, limits)


@rule(code="MEM102", name="retained-activations", severities=(Severity.INFO, Severity.WARNING, Severity.ERROR))
def retained_activations(measured: "Retention", limits: Limits) -> Verdict:
    """Activations of finished training steps pile up in a container, together with their autograd graphs.

    ## What it means
    Outputs, features or hidden states (tensors with more than one element) are appended at every step and never
    released. They keep their own memory and the graph behind them.

    ## Why it matters
    The memory of one batch of activations is lost with every step, on the device where they were computed. This is the
    fastest way to run out of memory in the middle of an epoch.

    ## What to do
    Detaching alone frees the graph but not the tensors: reduce them first (update a metric), or append
    ``output.detach().cpu()`` and clear the container at the end of the epoch. A forward hook that was registered to
    look at features should keep the last one only, or be removed.

    ## When it is wrong
    As for ``retained-graph``: replay buffers and other containers that keep graphs on purpose need a larger
    ``min_age``, and a ``deque`` with a ``maxlen`` is only a note.
    """
    return _verdict(measured, limits) if _of_activations(measured) else None


@rule(code="MEM901", name="unwatched-graphs", severities=(Severity.INFO,))
def unwatched_graphs(measured: object, limits: Limits) -> Verdict:
    """The autograd graphs of some steps could not be seen, so nothing can be said about them.

    ## What it means
    The detector learns of a graph when Lightning announces a backward pass. A step that calls ``loss.backward()``
    itself is seen through the outputs of its modules instead, at looks only; a compiled model, or a step without
    modules, is not seen there at all. A step that returns None has no graph. A detector that failed says so here too.

    ## Why it matters
    Silence about what was not watched is not a clean bill of health.

    ## What to do
    Call ``self.manual_backward(loss)`` instead of ``loss.backward()``: it does the same, works under every precision
    and strategy, and can be seen.

    ## When it is wrong
    A run that never calls ``backward`` on purpose (statistics gathered in a training loop) has nothing to be seen.
    """
    del measured, limits
    return None  # a note that the callback makes itself


RULES = (retained_graph, retained_activations, unwatched_graphs)


def _of_activations(measured: "Retention") -> bool:
    """Whether it is tensors of activations that pile up, not scalars and not a state with a long history."""
    piles_up = measured.tensors > 1 and not measured.chained
    return piles_up and measured.elements > 1 and measured.kind != "gradient"


def _verdict(measured: "Retention", limits: Limits) -> Verdict:
    if measured.steps < limits.steps:
        return TooEarly(measured.steps, limits.steps, "steps")
    share = _projected_share(measured, limits)
    severity = Severity.WARNING
    if share is not None and share > limits.share_of_free:
        severity = Severity.ERROR
    elif measured.bound is not None:
        severity = Severity.INFO
    evidence: dict[str, Plain] = {
        "retained_steps": measured.steps,
        "retained-graph.steps": limits.steps,
        "tensors": measured.tensors,
    }
    if measured.where is not None:
        evidence |= {
            "nodes_per_step": round(measured.nodes_per_step, 1),
            "bytes_per_step": round(measured.bytes_per_step),
        }
    if share is not None:
        evidence |= {
            "projected_share_of_free_memory": float(f"{share:.3g}"),
            "retained-graph.share_of_free": limits.share_of_free,
        }
    if measured.custom:
        evidence["custom_functions"] = ", ".join(measured.custom)
    return Diagnosis(
        severity, measured.where, measured.first_step, _message(measured, share), _remedy(measured), evidence
    )


def _projected_share(measured: "Retention", limits: Limits) -> float | None:
    """The share of the free memory that will be taken in what lies ahead; None where it cannot be measured."""
    if measured.free_bytes is None or math.isnan(measured.bytes_per_step):
        return None
    steps = limits.horizon if math.isinf(measured.steps_ahead) else measured.steps_ahead
    if measured.bound is not None:
        steps = min(steps, max(0, measured.bound - measured.tensors))
    return min(projected_share(measured.bytes_per_step, steps=steps, free=measured.free_bytes), _MANY_TIMES)


def _message(measured: "Retention", share: float | None) -> str:
    at_least = "" if measured.every_step else "at least "
    graphs = f"the autograd graphs of {at_least}{measured.steps} earlier step{'s' * (measured.steps != 1)}"
    if measured.where is None:
        return f"T{graphs[1:]} are alive, and no attribute or variable that was searched leads to them."
    least = "" if measured.exact else "at least "
    nodes = f"{measured.nodes_per_step:.{0 if measured.nodes_per_step >= 1 else 2}f}"
    growth = f"{least}{nodes} graph node{'s' * (nodes != '1')} and {_size(measured.bytes_per_step)} a step"
    bounded = f" until it holds its maxlen of {measured.bound}" if measured.bound is not None else ""
    text = f"{_holder(measured)} {graphs} alive: {growth}{bounded}."
    if share is None or share < _WORTH_SAYING:
        return text
    ahead = "the steps ahead" if math.isinf(measured.steps_ahead) else _AHEAD[measured.ahead]
    part = f"{share:.0%}" if share < 10 else "many times all"
    return f"{text} Over {ahead} that is {part} of the memory that is free."


def _holder(measured: "Retention") -> str:
    """What keeps the graphs, as the beginning of a sentence."""
    if measured.kind == "gradient":
        return f"The gradients of {measured.tensors} parameters keep"
    if measured.members:
        names = ", ".join(measured.members[:3]) + (", ..." if len(measured.members) > 3 else "")
        return f"{len(measured.members)} attributes ({names}) keep"
    if measured.tensors == 1:
        return "A tensor keeps"
    article = "An" if measured.holder[:1].upper() in "AEIOU" else "A"
    return f"{article} {measured.holder} of {measured.tensors} tensors keeps"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _remedy(measured: "Retention") -> str:
    """The one-line fix for this very case."""
    if measured.where is None:
        return _unheld_remedy(measured)
    place = measured.where.replace("model.", "self.", 1) if measured.where.startswith("model.") else measured.where
    if measured.kind == "closure" and place.endswith(("cell_contents", "]")):
        place = measured.name
    value = "loss.detach()" if "loss" in place.lower() else "value.detach()"
    if measured.kind == "gradient":
        return (
            "clear them with optimizer.zero_grad(), or use torch.autograd.grad(loss, parameters, create_graph=True) in "
            "place of loss.backward(create_graph=True)."
        )
    if measured.kind == "metric":
        return f"pass detached values to the metric: {place.rpartition('.')[0]}.update(value.detach())."
    if measured.members:
        return f"detach what is stored in these attributes: {value}."
    if measured.chained:
        return _chain_remedy(measured, place, value)
    if measured.tensors > 1 or measured.container:
        return _pile_remedy(measured, place, value)
    return f"store a number, not a graph: {place} = {value}."


def _chain_remedy(measured: "Retention", place: str, value: str) -> str:
    """For what is computed from its own last value: a sum, an average, a state."""
    if measured.container and measured.elements > 1:
        return f"cut the graph when the state is carried to the next step: detach each tensor of {place}."
    if measured.elements > 1:
        return f"cut the graph when the state is carried to the next step: {place} = {place}.detach()."
    if measured.container:
        return f"update it by numbers, not graphs: use {value} in what goes into {place}."
    if measured.operations == ("AddBackward0", "MulBackward0"):
        return f"average a number, not a graph: {place} = decay * {place} + (1 - decay) * {value}."
    if measured.operations[:1] == ("AddBackward0",):
        return f"add a number, not a graph: {place} += {value}."
    return f"update it by a number, not a graph: use {value} where {place} is computed."


def _pile_remedy(measured: "Retention", place: str, value: str) -> str:
    """For a container that gets an item at each step."""
    stored = value if measured.elements == 1 else "output.detach().cpu()"
    within = f"{stored} in {place}"
    call = {
        "list": f"{place}.append({stored})",
        "deque": f"{place}.append({stored})",
        "set": f"{place}.add({stored})",
        "dict": f"{place}[key] = {stored}",
    }.get(measured.container if measured.direct else "", within)
    if measured.elements == 1:
        return f"store a number, not a graph: {call}."
    return (
        f"detaching is not enough, the tensors themselves pile up: reduce them, or {call} and clear it at the end of "
        "the epoch."
    )


def _unheld_remedy(measured: "Retention") -> str:
    """What to look for where no path leads to the graphs, the likeliest first."""
    causes = [
        "a tensor hook whose function uses the tensor it is registered on: use its argument, or x.detach()",
        "a local variable of a running function, a generator or a cache that collects tensors: store loss.detach()",
        "a graph kept by an extension, or by the next step's graph: detach what is carried from step to step",
    ]
    if measured.custom:
        causes.insert(0, f"{', '.join(measured.custom)} storing tensors on ctx: use ctx.save_for_backward")
    return "; or ".join(f"({letter}) {cause}" for letter, cause in zip("abcd", causes, strict=False)) + "."

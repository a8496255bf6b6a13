"""Programs that once broke the detector, or that it broke or accused: each is here as it was met."""

import enum
import gc
import importlib
import importlib.util
import math
import os
import sys
import types
from collections import OrderedDict, defaultdict, deque
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from lightning_diagnostics import Finding, GraphLeakDetector
from lightning_diagnostics.diagnostics.graph_leak import search
from tests.diagnostics.graph_leak import elsewhere, sick
from tests.diagnostics.graph_leak.sick import Classifier
from tests.helpers import trainer


def diagnosed(module: LightningModule, *, batches: int = 10, **settings: Any) -> list[Finding]:
    """What is found in one epoch of so many batches, with the detector strict: a fault of its own fails the test."""
    detector = GraphLeakDetector(strict=True)
    data = DataLoader([*sick.batches()] * math.ceil(batches / 10), batch_size=None)
    settings = {"max_epochs": 1, "limit_train_batches": batches, **settings}
    trainer(detector, **settings).fit(module, data)
    return detector.findings


def kept(store: Any, put: Any) -> LightningModule:
    """A module with an attribute ``h`` into which ``put(h, loss, step)`` puts the loss."""

    class Keeps(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.h = store

        def keep(self, loss: Tensor, logits: Tensor) -> None:
            put(self.h, loss, self.global_step)

    return Keeps()


# torch.compile


class Raw(Classifier):
    """Calls backward itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def loss(self, batch: list[Tensor]) -> Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        self.loss(batch).backward()
        optimizer.step()


@pytest.mark.parametrize("detectors", [0, 1])
def test_a_compiled_function_of_a_manual_step_is_compiled_and_called_as_without_us(detectors: int) -> None:
    calls: list[int] = []

    def backend(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Any:
        return lambda *args: calls.append(1) or graph(*args)

    class Compiled(Raw):
        def __init__(self) -> None:
            super().__init__()
            self.compiled = torch.compile(self.net.forward, backend=backend, fullgraph=True)

        def loss(self, batch: list[Tensor]) -> Tensor:
            return functional.cross_entropy(self.compiled(batch[0]), batch[1])

    torch._dynamo.reset()
    run = trainer(*[GraphLeakDetector(strict=True)] * detectors, max_epochs=2)
    run.fit(Compiled(), sick.batches())
    assert len(calls) == 20


# Outputs of modules with a mind of their own


class Once(list[Any]):
    """Gives its items away once."""

    def __iter__(self) -> Any:
        while self:
            yield self.pop(0)


class LazyDict(dict[str, Any]):
    def values(self) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("output", [lambda x: Once([x]), lambda x: LazyDict(a=x)], ids=["iterates once", "lazy dict"])
def test_an_output_is_not_touched_by_means_of_its_own(output: Any) -> None:
    class Head(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return output(x)

    class Odd(Raw):
        def __init__(self) -> None:
            super().__init__()
            self.head = Head()

        def loss(self, batch: list[Tensor]) -> Tensor:
            out = self.head(self.net(batch[0]))
            logits = dict.__getitem__(out, "a") if isinstance(out, dict) else next(iter(out))
            return functional.cross_entropy(logits, batch[1])

    assert diagnosed(Odd()) == []


def test_a_cached_output_with_a_graph_is_no_leak() -> None:
    class Cache(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(8))
            self.made: Any = None

        def forward(self) -> Tensor:
            self.made = self.weight * 2 if self.made is None else self.made
            return self.made

    class Cached(Raw):
        def __init__(self) -> None:
            super().__init__()
            self.cache = Cache()

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            functional.cross_entropy(self.net(batch[0] @ self.cache()), batch[1]).backward(retain_graph=True)
            optimizer.step()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net.parameters(), lr=0.01)

    assert diagnosed(Cached(), batches=40) == []


# Graphs kept for a backward pass that comes later


@pytest.mark.parametrize("raw", [False, True])
def test_an_episode_that_is_emptied_when_the_next_one_begins_is_no_leak(raw: bool) -> None:
    class Episode(Raw):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            if batch_idx % 20 == 0:
                self.losses: list[Tensor] = []
            self.losses.append(self.loss(batch))
            if batch_idx % 20 == 19:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                total = torch.stack(self.losses).mean()
                total.backward() if raw else self.manual_backward(total)
                optimizer.step()

    assert [f.where for f in diagnosed(Episode(), batches=100) if f.code != "MEM901"] == []


# Leaks beside objects that are hard to read


def test_a_list_that_runs_code_when_it_is_iterated_is_read_without_it() -> None:
    class Draws(list[Any]):
        def __iter__(self) -> Any:
            raise AssertionError("the user's code ran")

    (finding,) = diagnosed(kept(Draws(), lambda h, loss, step: h.append(loss)))
    assert finding.where == "model.h"
    assert finding.remedy.endswith("self.h.append(value.detach()).")


def test_a_lazy_layer_that_is_never_called_and_a_view_without_a_node_are_passed_over() -> None:
    class Hard(sick.Losses):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.LazyLinear(3)
            base = torch.ones(2, 2, requires_grad=True) * 1
            self.view = base.unbind(1)[0]
            base.mul_(2)

    assert [f.where for f in diagnosed(Hard())] == ["model.losses"]


def test_a_custom_function_with_a_name_of_its_own_and_tensors_on_its_context_is_weighed() -> None:
    class Named(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.name, ctx.inputs = "layer", torch.ones(100_000)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad

    class Uses(sick.Losses):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            loss = functional.cross_entropy(Named.apply(self.net(batch[0])), batch[1])
            self.losses.append(loss)
            return loss

    (finding,) = diagnosed(Uses())
    assert finding.evidence["bytes_per_step"] == pytest.approx(400_000, rel=0.02)
    assert finding.evidence["custom_functions"] == "NamedBackward"


def test_a_search_beside_ten_million_numbers_copies_none_of_them() -> None:
    import tracemalloc

    module = sick.Losses()
    module.tokens = list(range(10_000_000))
    tracemalloc.start()
    findings = diagnosed(module)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [f.where for f in findings] == ["model.losses"]
    assert peak < 20e6


def test_the_cases_that_pytest_keeps_on_a_test_are_not_opened() -> None:
    @pytest.mark.parametrize("case", [[number] for number in range(1_000)])
    def test(case: list[int]) -> None: ...

    opened: dict[tuple[str, ...], object] = {}
    assert list(search.search({"test": test}, opened)) == []
    assert 1 < len(opened) < 10


def test_a_large_graph_kept_between_looks_is_weighed_without_a_mark_in_reach() -> None:
    class Deep(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(*(layer for _ in range(20) for layer in (nn.Linear(8, 8), nn.Tanh())))
            self.norms: list[Tensor] = []

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            hidden = self.net(batch[0])
            for _ in range(80):
                hidden = hidden * 1
            self.norms.append(hidden[0].detach() + hidden)
            return hidden.square().mean().exp().log().exp().log()

    (finding,) = diagnosed(Deep(), batches=150)
    assert (finding.code, finding.where) == ("MEM102", "model.norms")


def test_gc_that_the_user_switched_off_stays_off_and_unused() -> None:
    class Cycle(list[Any]):
        def __del__(self) -> None:
            freed.append(1)

    class Cycles(Classifier):
        def keep(self, loss: Tensor, logits: Tensor) -> None:
            cycle = Cycle([loss])
            cycle.append(cycle)

    freed: list[int] = []
    gc.collect()
    gc.disable()
    try:
        assert diagnosed(Cycles(), batches=50) == []
        assert freed == []
    finally:
        gc.enable()
        gc.collect()


# Paths that must evaluate


class Stage(str, enum.Enum):
    TRAIN = "train"


class WithProperty(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.recorder = Shadowed()

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.recorder.__dict__["seen"].append(loss)


class Shadowed:
    def __init__(self) -> None:
        self.__dict__["seen"] = []

    @property
    def seen(self) -> int:
        return 0


def _in_submodule(container: nn.Module, name: str) -> LightningModule:
    class Keeps(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.parts = container
            container._modules[name].h = []

        def keep(self, loss: Tensor, logits: Tensor) -> None:
            self.parts._modules[name].h.append(loss)

    return Keeps()


def _swapped() -> nn.Module:
    return nn.Sequential(OrderedDict([("1", nn.Identity()), ("0", nn.Identity())]))


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: kept({}, lambda h, x, i: h.setdefault(Stage.TRAIN, []).append(x)), "model.h"),
        (lambda: kept({}, lambda h, x, i: h.setdefault(math.inf, []).append(x)), "model.h"),
        (lambda: kept({}, lambda h, x, i: h.setdefault("a'b", []).append(x)), 'model.h["a\'b"]'),
        (lambda: _in_submodule(nn.ModuleDict({"0": nn.Identity()}), "0"), "model.parts._modules['0'].h"),
        (lambda: _in_submodule(nn.ModuleDict({"class": nn.Identity()}), "class"), "model.parts._modules['class'].h"),
        (lambda: _in_submodule(_swapped(), "1"), "model.parts._modules['1'].h"),
        (lambda: _in_submodule(nn.Sequential(nn.Identity(), nn.Identity()), "1"), "model.parts[1].h"),
        (WithProperty, "model.recorder.__dict__['seen']"),
    ],
    ids=[
        "enum key",
        "infinite key",
        "quote in a key",
        "number in a dict",
        "keyword",
        "swapped",
        "sequence",
        "property",
    ],
)
def test_an_odd_name_gives_a_path_that_evaluates(make: Any, where: str) -> None:
    module = make()
    (finding,) = diagnosed(module)
    assert finding.where == where
    holder = eval(where, {"model": module})
    assert isinstance(holder, list | dict)
    assert len(holder) == (10 if isinstance(holder, list) else 1)


def test_closures_in_a_list_are_held_by_the_list() -> None:
    (finding,) = diagnosed(kept([], lambda h, x, i: h.append(lambda: x)))
    assert finding.where == "model.h"


def test_an_old_tensor_beside_a_leak_is_no_family() -> None:
    class FixedAndGrowing(sick.Losses):
        first: Any = None

        def keep(self, loss: Tensor, logits: Tensor) -> None:
            self.first = loss if self.first is None else self.first
            if self.global_step >= 40:
                self.losses.append(loss)

    assert [f.where for f in diagnosed(FixedAndGrowing(), batches=100)] == ["model.losses"]


# The fix for the very case


class LstmState(Classifier):
    """Both parts of the state are carried with their graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.state: Any = None
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        features, self.state = self.lstm(batch[0][:, None], self.state)
        self.manual_backward(functional.cross_entropy(self.net(features[:, 0]), batch[1]), retain_graph=True)


def _add(h: Any, x: Tensor, i: int) -> None:
    h["total"] = h["total"] + x


@pytest.mark.parametrize(
    ("make", "code", "remedy"),
    [
        (LstmState, "MEM101", "detach each tensor of self.state."),
        (
            lambda: kept(defaultdict(float), _add),
            "MEM101",
            "add a number, not a graph: self.h['total'] += value.detach().",
        ),
        (lambda: kept(OrderedDict(), lambda h, x, i: h.update({i: x})), "MEM101", "self.h[key] = value.detach()."),
        (lambda: kept({}, lambda h, x, i: h.setdefault("a", {}).update({(i,): x})), "MEM101", "self.h['a'][key] = "),
    ],
    ids=["lstm state", "sum in a defaultdict", "ordered dict", "tuple keys"],
)
def test_the_fix_fits_the_holder(make: Any, code: str, remedy: str) -> None:
    (finding,) = diagnosed(make())
    assert finding.code == code
    assert remedy in finding.remedy


def test_a_maximum_is_not_told_to_add() -> None:
    class Maximum(Classifier):
        largest: Any = torch.zeros(())

        def keep(self, loss: Tensor, logits: Tensor) -> None:
            self.largest = torch.maximum(self.largest, loss)

    (finding,) = diagnosed(Maximum())
    assert finding.remedy == "update it by a number, not a graph: use value.detach() where self.largest is computed."


# A run through all of it


def test_a_limit_without_an_end_and_a_run_without_an_end_write_what_a_file_can_hold(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"'retained-graph.horizon' is inf: allowed is 1 to 1e\+12"):
        GraphLeakDetector(limits={"retained-graph.horizon": math.inf})
    detector = GraphLeakDetector(strict=True, limits={"retained-graph.horizon": 1e12})
    logger = CSVLogger(tmp_path)
    settings = {"max_epochs": -1, "max_steps": -1, "max_time": {"seconds": 1}, "logger": logger}
    trainer(detector, **settings).fit(sick.Losses(), DataLoader([*sick.batches()] * 10, batch_size=None))
    assert (tmp_path / "lightning_logs" / "version_0" / "findings.jsonl").exists()
    assert detector.findings[0].where == "model.losses"


def test_a_detector_that_watches_another_network_has_forgotten_the_first() -> None:
    detector = GraphLeakDetector(strict=True)
    for key in ("a", "b"):
        put = lambda h, x, i, key=key: h.setdefault(key, []).append(x)  # noqa: E731  # shorter than a def with a default
        trainer(detector, max_epochs=1).fit(kept({}, put), sick.batches())
        assert [f.where for f in detector.findings] == [f"model.h['{key}']"]


def test_a_list_that_is_cleared_every_epoch_is_not_projected_over_the_run() -> None:
    class Big(sick.LossesOfAnEpoch):
        def keep(self, loss: Tensor, logits: Tensor) -> None:
            self.losses.append(loss + torch.zeros(100_000))

    detector = GraphLeakDetector(strict=True)
    trainer(detector, max_epochs=100_000, max_steps=60).fit(Big(), sick.batches())
    assert detector.findings[0].evidence["projected_share_of_free_memory"] < 0.01
    assert str(detector.findings[0].severity) == "WARNING"


def test_the_users_own_modules_are_searched_wherever_they_lie_and_however_they_are_called(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("logging_utils", "torch_helpers"):  # no part of logging or torch
        (tmp_path / f"{name}.py").write_text("KEPT = []\n")
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "mine.py").write_text("KEPT = []\nclass Mine:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.setattr(search, "_library_folders", lambda: (str(installed) + os.sep,))
    names = ("logging_utils", "torch_helpers", "mine")
    modules = {name: importlib.import_module(name) for name in names}
    found = search.user_modules([modules["mine"].Mine(), nn.Linear(1, 1)])
    assert set(names) <= set(found)
    assert "mine" not in search.user_modules([nn.Linear(1, 1)])
    assert not {"torch", "logging", "lightning", "lightning_diagnostics.probes"} & set(found)


def test_a_search_loads_no_lazy_module_and_asks_no_proxy(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Proxy:
        @property
        def __class__(self) -> type:  # type: ignore[override]  # as lazy proxies do
            raise AssertionError("the proxy was asked")

    (tmp_path / "loaded_late.py").write_text("raise AssertionError('the module was loaded')\n")
    spec = importlib.util.spec_from_file_location("loaded_late", tmp_path / "loaded_late.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    late = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(late)
    monkeypatch.setitem(sys.modules, "loaded_late", late)
    vars(elsewhere)["proxy"] = Proxy()  # past the test tool, which would ask it
    vars(elsewhere)["KEPT"] = []
    try:
        (finding,) = diagnosed(kept(None, lambda h, x, i: elsewhere.KEPT.append(x)))
    finally:
        del vars(elsewhere)["proxy"], vars(elsewhere)["KEPT"]
    assert finding.where == "sys.modules['tests.diagnostics.graph_leak.elsewhere'].KEPT"


def test_an_attribute_called_maxlen_bounds_nothing() -> None:
    class Sequence(sick.OneAttributeAStep):
        maxlen = "512"

    (finding,) = diagnosed(Sequence())
    assert (finding.where, str(finding.severity)) == ("model", "WARNING")


def test_a_subclass_of_tensor_is_weighed_without_its_own_code() -> None:
    class Own(Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert "numel" not in str(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    (finding,) = diagnosed(kept([], lambda h, x, i: h.append(x.as_subclass(Own))))
    assert finding.where == "model.h"


def test_too_little_at_each_place_is_searched_for_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    class BestAndWindow(Classifier):
        def keep(self, loss: Tensor, logits: Tensor) -> None:
            self.window = deque([*getattr(self, "window", ()), loss], maxlen=5)
            self.best = getattr(self, "best", loss)

    searches: list[int] = []
    find = GraphLeakDetector._search
    monkeypatch.setattr(GraphLeakDetector, "_search", lambda self, *a, **k: searches.append(1) or find(self, *a, **k))
    assert diagnosed(BestAndWindow(), batches=1000) == []
    assert len(searches) <= 10


class KeepsInDefaults(Classifier):
    @staticmethod
    def put(loss: Tensor, store: list[Tensor] = []) -> None:  # noqa: B006  # the mistake itself
        store.append(loss)

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.put(loss)


class KeepsInKeywords(Classifier):
    def keep(self, loss: Tensor, logits: Tensor, *, store: list[Tensor] = []) -> None:  # noqa: B006  # the mistake itself
        store.append(loss)


class Attributed(dict[str, Any]):
    """A dict with an attribute."""


class KeepsBesideItems(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.store = Attributed()
        self.store.kept = []

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.store.kept.append(loss)


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (KeepsInDefaults, "type(model).__dict__['put'].__func__.__defaults__[0]"),
        (KeepsInKeywords, "type(model).keep.__kwdefaults__['store']"),
        (KeepsBesideItems, "model.store.kept"),
    ],
)
def test_defaults_and_attributes_of_containers_are_read_too(make: Any, where: str) -> None:
    module = make()
    (finding,) = diagnosed(module)
    assert finding.where == where
    assert isinstance(eval(where, {"model": module}), list)


@pytest.mark.parametrize("length", [100, 300])
def test_a_buffer_of_bounded_length_is_closed_when_it_is_full_however_long_it_is(length: int) -> None:
    def put(h: Any, x: Tensor, i: int) -> None:
        h.append(x)
        del h[:-length]

    (finding,) = diagnosed(kept([], put), batches=600)
    assert finding.status == "closed"
    assert finding.last_step < length + 50


def test_a_holder_deep_in_the_model_is_found_beside_a_large_package() -> None:
    names = {f"f{i}": (lambda: None) for i in range(100)}
    module = types.ModuleType("large_package")
    module.__file__ = __file__
    for index in range(2000):
        cls = type(f"C{index}", (), {**names, "__module__": "large_package"})
        setattr(module, cls.__name__, cls)

    class Deep(sick.OfASubmodule):
        def keep(self, loss: Tensor, logits: Tensor) -> None:
            self.net[0].store = getattr(self.net[0], "store", {"a": {"b": []}})
            self.net[0].store["a"]["b"].append(loss)

    sys.modules["large_package"] = module
    try:
        (finding,) = diagnosed(Deep())
    finally:
        del sys.modules["large_package"]
    assert finding.where == "model.net[0].store['a']['b']"

"""Our callbacks in Trainers and command lines of both of Lightning's packages, in any order of imports."""

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest

from tests.ways.desk import EVERY, KINDS, KNOWN, SCRIPTS, SUITE, VARIABLE, Desk, listed
from tests.ways.workshop import Workshop

LIGHTNING, OTHER = "lightning.pytorch", "pytorch_lightning"
TITLES = {"ours": "from lightning_diagnostics import Diagnostics, GraphLeakDetector"}
TITLES |= {LIGHTNING: "import lightning.pytorch as first", OTHER: "import pytorch_lightning as second"}

LOADED = """
import sys
from lightning_utilities.core import rank_zero
print("loaded:", *(name for name in ("lightning", "pytorch_lightning") if name in sys.modules))
print("speaks:", rank_zero.log.name)
"""
TRAIN = """
import torch

def run(package, callbacks):
    class Net(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
            torch.nn.init.constant_(self.net[0].bias, -30.0)
            self.running_loss = 0.0

        def training_step(self, batch, batch_idx):
            loss = self.net(batch).square().mean()
            self.running_loss = self.running_loss + loss
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1, "logger": False}
    trainer = package.Trainer(accelerator="cpu", max_epochs=1, callbacks=callbacks, enable_checkpointing=False, **quiet)
    trainer.fit(Net(), torch.utils.data.DataLoader(torch.ones(640, 4), batch_size=64))
    suite = next((callback for callback in trainer.callbacks if hasattr(callback, "findings")))
    print(f"{package.__name__}:", *sorted(f"{f.code}@{f.where}" for f in suite.findings))
"""
FOUND = sorted(f"{code}@{where}" for code, where, _ in KNOWN)


@pytest.fixture(scope="session")
def torch_shop() -> Iterator[Workshop]:
    """Has torch and what both packages need, and neither of them."""
    shop = Workshop("torch", "torchmetrics", "torch.utils.tensorboard", "yaml", "torch.utils.data")
    yield shop
    shop.close()


@pytest.fixture
def torch_desk(tmp_path: Path, torch_shop: Workshop) -> Desk:
    """Of a user who has imported nothing of Lightning's yet, and whose scripts say which package they use."""
    return Desk(tmp_path, torch_shop.run)


ORDERS = [
    *(order for package in (LIGHTNING, OTHER) for order in permutations(("ours", package))),
    *(pytest.param(order, marks=pytest.mark.slow) for order in permutations(("ours", LIGHTNING, OTHER))),
]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_any_order_of_imports(order: tuple[str, ...], torch_desk: Desk) -> None:
    packages = [("first", LIGHTNING), ("second", OTHER)]
    text = "\n".join([*(TITLES[each] for each in order), TRAIN])
    for name, package in packages:
        if package in order:
            text += f"run({name}, [Diagnostics()])\nrun({name}, Diagnostics())\nrun({name}, [GraphLeakDetector()])\n"
            text += (
                f"print('is:', *(isinstance(each(), {name}.Callback) for each in (Diagnostics, GraphLeakDetector)))\n"
            )
    torch_desk.package = LIGHTNING
    done = torch_desk.good(text)
    for _, package in packages:
        if package in order:
            assert done.said(package) == [*FOUND, *FOUND, "MEM101@model.running_loss"]
    assert done.said("is") == ["True"] * 2 * (len(order) - 1)


@pytest.mark.parametrize(
    ("order", "loaded"),
    [
        ((OTHER, "ours"), ["pytorch_lightning"]),
        ((LIGHTNING, "ours"), ["lightning"]),
        ((OTHER, LIGHTNING, "ours"), ["lightning", "pytorch_lightning"]),
        ((LIGHTNING, OTHER, "ours"), ["lightning", "pytorch_lightning"]),
    ],
    ids=lambda value: "-".join(value),
)
def test_a_package_that_the_script_does_not_use_is_not_loaded_and_its_log_stays(
    order: tuple[str, ...], loaded: list[str], torch_desk: Desk
) -> None:
    theirs = "\n".join(TITLES[each] for each in order if each != "ours")
    user = "second" if order[0] == OTHER else "first"
    run = TRAIN + f"run({user}, [Diagnostics(), GraphLeakDetector()])\n"
    without = torch_desk.good(theirs + LOADED)
    done = torch_desk.good("\n".join([theirs, TITLES["ours"], run, LOADED]))
    assert without.said("loaded") == done.said("loaded") == loaded
    assert done.said("speaks") == without.said("speaks")


@pytest.mark.parametrize("package", [LIGHTNING, OTHER])
def test_the_environment_loads_the_scripts_package_only(package: str, torch_desk: Desk) -> None:
    torch_desk.package = package
    text = "import runpy\nrunpy.run_path('plain.py', run_name='__main__')" + LOADED
    without, done = torch_desk.good(text), torch_desk.good(text, env={VARIABLE: "standard"})
    assert done.children == listed(*EVERY)
    for word in ("loaded", "speaks"):
        assert [w for w in done.said(word) if not w.startswith("lightning_diag")] == [
            w for w in without.said(word) if not w.startswith("lightning_diag")
        ]
    assert package.partition(".")[0] in done.said("loaded")
    lightnings = [line for line in without.err.splitlines() if "stopped" in line or "GPU available" in line]
    assert len(lightnings) == 2
    assert [line for line in done.err.splitlines() if line in lightnings] == lightnings


@pytest.mark.parametrize("project", ["datamodule", "subclass"])
def test_command_lines_of_the_other_package(project: str, other_desk: Desk) -> None:
    words = (f"{project}.py", "fit", "--config", f"{project}.yaml")
    done = other_desk.good(*words, SUITE, "--trainer.callbacks.preset=thorough")
    assert (done.children, done.found >= KNOWN) == (listed(*EVERY), True)
    assert (done.record["enabled_by"], done.settings) == ("--trainer.callbacks", {"preset": "thorough"})
    single = "--trainer.callbacks+=lightning_diagnostics.GraphLeakDetector"
    done = other_desk.good(*words, single, "--trainer.callbacks.min_age=3")
    assert done.children == ["GraphLeakDetector"]
    done = other_desk.run(*words, SUITE, "--trainer.callbacks.preset=fast")
    assert done.first.startswith("lightning_diagnostics ERROR: Diagnostics: preset='fast': allowed are 'light', ")


@pytest.mark.parametrize("first", ["from lightning import pytorch", TITLES["ours"]], ids=["lightning", "ours"])
def test_a_command_line_of_a_script_that_imports_something_else_before(first: str, torch_desk: Desk) -> None:
    torch_desk.package = OTHER
    text = f"{first}\nfrom {OTHER}.cli import LightningCLI\nfrom networks import Net, Data\n"
    done = torch_desk.good(f"{text}LightningCLI(Net, Data)", "fit", "--config", "datamodule.yaml", SUITE)
    assert done.found >= KNOWN


# The same findings through every way.


@pytest.mark.parametrize("package", [LIGHTNING, OTHER])
def test_every_way_finds_the_same(package: str, request: pytest.FixtureRequest) -> None:
    desk: Desk = request.getfixturevalue("desk" if package == LIGHTNING else "other_desk")
    plain = (SCRIPTS / "plain.py").read_text()
    listed = plain.replace("callbacks=[Roll()]", "callbacks=[Roll(), Diagnostics()]")
    each = ", ".join(f"{name}(**{dict(KINDS[name].only_watching)})" for name in EVERY)  # as the suite makes them
    one_by_one = plain.replace("callbacks=[Roll()]", f"callbacks=[Roll(), {each}]")
    imports = f"from lightning_diagnostics import Diagnostics, {', '.join(EVERY)}\n"
    config = ("fit", "--config", "datamodule.yaml")
    runs = {
        "the list": desk.good(imports + listed),
        "one by one": desk.good(imports + one_by_one),
        "the variable": desk.good("plain.py", env={VARIABLE: "standard"}),
        "the flag": desk.good("datamodule.py", *config, SUITE),
        "its own flag": desk.good("own_cli.py", "--config", "datamodule.yaml", "--diagnostics"),
    }
    if package == LIGHTNING:
        runs["the class"] = desk.good("suite_cli.py", *config)
    assert len({frozenset(run.found) for run in runs.values()}) == 1
    assert runs["the list"].found >= KNOWN
    ways = {name: run.record["enabled_by"] for name, run in runs.items()}
    assert ways["the list"] == ways["one by one"] == "the callbacks of the Trainer"
    assert (ways["the variable"], ways["the flag"]) == (f"{VARIABLE}=standard", "--trainer.callbacks")
    assert ways["its own flag"] == ways.get("the class", "--diagnostics") == "--diagnostics"

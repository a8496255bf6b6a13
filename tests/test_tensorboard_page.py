"""What a reader sees in TensorBoard: the real server on the real event files, opened in headless Chromium.

``SCREENSHOTS=docs/images pytest -m browser`` also draws the pictures of the documentation anew.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from lightning_diagnostics import Finding, Severity, tensorboard
from lightning_diagnostics.diagnostics.activations.measure import LayerActivations, Overview
from lightning_diagnostics.diagnostics.batch_norm import measure as batch_norm
from lightning_diagnostics.diagnostics.gradients.measure import LayerGradients, OptimizerGradients

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOTS = os.environ.get("SCREENSHOTS")
REPOSITORY = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"),
)
# TensorBoard's pages are built of shadow trees, into which neither --dump-dom nor querySelector looks.
FIND = """
function all(selector, root = document) {
    const inside = [...root.querySelectorAll('*')].flatMap(e => e.shadowRoot ? all(selector, e.shadowRoot) : []);
    return [...root.querySelectorAll(selector), ...inside];
}
function shown(selector) { return all(selector).filter(e => e.getBoundingClientRect().height > 0); }
"""


def digits(folder: Path, *arguments: object, epochs: int) -> Path:
    """The event files of the digits example; for the pictures of the documentation, of ten epochs."""
    command = [sys.executable, REPOSITORY / "examples/digits.py", *map(str, arguments), f"--logdir={folder}"]
    subprocess.run([*command, f"--epochs={10 if SCREENSHOTS else epochs}"], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def leak(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits example without and with the leak."""
    folder = tmp_path_factory.mktemp("leak") / "lightning_logs"
    digits(folder, "healthy", "leaking", f"--plot={folder / 'memory.png'}", epochs=1)
    if SCREENSHOTS:
        shutil.copy(folder / "memory.png", SCREENSHOTS)
    return folder


@pytest.fixture(scope="module")
def death(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits example in health, and with a layer that dies: in as many epochs as it takes to be sure."""
    return digits(tmp_path_factory.mktemp("death") / "lightning_logs", "healthy", "dying", epochs=4)


@pytest.fixture(scope="module")
def modes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits example with batch norm, in health and validated in training mode."""
    return digits(tmp_path_factory.mktemp("modes") / "lightning_logs", "normed", "forgetting", epochs=3)


@pytest.fixture(scope="module")
def clipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits example with clipped gradients, in health and with layers that no optimizer has."""
    folder = tmp_path_factory.mktemp("clipped") / "lightning_logs"
    return digits(folder, "healthy", "forgotten", "--clip=0.5", epochs=5)


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits example that learns by heart, with the scores of each digit."""
    return digits(tmp_path_factory.mktemp("overfitted") / "lightning_logs", "overfitting", "--per-class", epochs=10)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of the search example: twenty trials, each with nothing but its callback."""
    folder = tmp_path_factory.mktemp("searched")
    command = [sys.executable, REPOSITORY / "examples/search.py", f"--logdir={folder}"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "digits"


@pytest.fixture(scope="module")
def last_trial(searched: Path) -> Path:
    """The folder of the run whose curve is of all trials, or of all but one that ended in the same moment."""
    records = {path: json.loads(path.read_text("utf-8")) for path in searched.glob("*/expected_performance/*.json")}
    ended = [path for path, record in records.items() if record["status"] == "completed"]
    return max(ended, key=lambda path: records[path]["beat"]).parent.parent


@pytest.fixture
def page(tmp_path: Path) -> Iterator["Page"]:
    """A browser with one empty page."""
    with background([CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}", "--window-size=1300,1000"]) as log:
        (port,) = awaited(log, r"DevTools listening on ws://[^:]+:(\d+)/")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            target = next(each for each in json.load(answer) if each["type"] == "page")
        from websockets.sync.client import connect

        with connect(target["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
            yield Page(socket)


def test_the_leak_is_a_table_on_the_text_page(leak: Path, page: "Page") -> None:
    with serving(leak) as address:
        page.open(f"{address}/#text")
        table = page.wait_for("shown('table').map(e => e.innerText).find(text => text.includes('MEM101'))")
        page.draw("findings.png", "shown('table')[0]")
    assert "retained-graph" in table
    assert "model.norm_sum" in table
    assert "self.norm_sum += " in table
    assert "WARNING" in table


def test_the_dead_layer_is_a_table_on_the_text_page(death: Path, page: "Page") -> None:
    with serving(death) as address:
        page.open(f"{address}/#text")
        table = page.wait_for("shown('table').map(e => e.innerText).find(text => text.includes('ACT101'))")
        page.draw("dead_finding.png", "shown('table')[0]")
    assert "dead-units" in table
    assert "head/relu" in table
    assert "lower the learning rate" in table
    assert "WARNING" in table


def test_the_wrong_mode_is_a_table_on_the_text_page(modes: Path, page: "Page") -> None:
    with serving(modes / "forgetting") as address:
        page.open(f"{address}/#text")
        table = page.wait_for("shown('table').map(e => e.innerText).find(text => text.includes('BN101'))")
    assert "train-mode-in-evaluation" in table
    assert "features.1" in table
    assert "set inside validation_step" in table
    assert "remove the train() call" in table
    assert "ERROR" in table


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """An event file with several findings, at places with long names."""
    found = Finding(
        code="MEM102",
        name="retained-activations",
        severity=Severity.WARNING,
        where="sys.modules['tests.some.module'].HISTORY",
        first_step=0,
        last_step=123456,
        message="Activations of 134 earlier steps pile up in a container, together with their autograd graphs.",
        remedy="append numbers, not graphs: HISTORY.append(value.detach().cpu()), or empty it at the end of an epoch.",
        evidence={"retained_steps": 134, "projected_share_of_free_memory": 0.0066, "retained-graph.share_of_free": 0.5},
    )
    deep = "model.net[1]._forward_hooks[1].__closure__[0].cell_contents"
    blind = replace(found, code="MEM901", name="unwatched-graphs", severity=Severity.INFO, where=None, message="Blind.")
    with SummaryWriter(tmp_path / "several") as writer:
        tensorboard.write_findings(
            [writer], [replace(found, where=deep, severity=Severity.ERROR), found, blind], step=9
        )
    return tmp_path / "several"


@pytest.mark.parametrize("run", ["leaking", "dying", "forgetting", "several"])
def test_no_word_of_the_findings_table_is_broken(
    run: str, leak: Path, death: Path, modes: Path, several: Path, page: "Page"
) -> None:
    broken = """shown('td, th, td code').flatMap(cell => [...cell.childNodes]).flatMap(node => {
        if (node.nodeType != Node.TEXT_NODE) return [];
        return [...node.data.matchAll(/[A-Za-z]+/g)].filter(word => {
            const range = document.createRange();
            range.setStart(node, word.index); range.setEnd(node, word.index + word[0].length);
            return range.getClientRects().length > 1;
        }).map(word => word[0]);
    })"""
    logs = {"leaking": leak / run, "dying": death / run, "forgetting": modes / run, "several": several}
    with serving(logs[run]) as address:
        page.open(f"{address}/#text")
        page.wait_for("shown('table').length")
        assert page.evaluate(broken) == []


def test_a_healthy_run_has_no_table_of_findings(death: Path, page: "Page") -> None:
    with serving(death / "healthy") as address:
        page.open(f"{address}/#text")
        tables = page.wait_for("(t => t.length && t)(shown('table').map(e => e.innerText))")
        assert all("95 % of the gap" in table for table in tables)


def test_our_curves_lie_beside_the_users(leak: Path, page: "Page") -> None:
    with serving(leak) as address:
        page.open(f"{address}/#scalars&tagFilter=graph_leak%7Ctrain_loss")
        titles = page.wait_for("(t => t.length >= 3 && t)(shown('tf-scalar-card').map(e => e.tag))")
        page.draw("scalars.png", "shown('tf-scalar-card')[2]")
    assert {"train_loss", "graph_leak/graphs_alive", "graph_leak/memory_in_use"} <= set(titles)


LINES = (
    "all('path.line', card.shadowRoot).filter(e => /L/.test(e.getAttribute('d')) && !/NaN/.test(e.getAttribute('d')))"
)
"""The lines of a card that are drawn and have more than one point."""


def test_the_curves_of_layers_have_lines(death: Path, page: "Page") -> None:
    tags = [
        f"activations/{what}/{layer}" for what in ("dead_share", "zero_share") for layer in ("features.1", "head/relu")
    ]
    with serving(death) as address:
        page.open(f"{address}/#scalars&tagFilter=dead_share/%7Czero_share%7C%5Eval_acc%24")
        page.grow(1400)
        for tag in [*tags, "val_acc"]:
            card = f"shown('tf-scalar-card').find(card => card.tag == '{tag}')"
            # Each of the two runs has two: one as it is and one smoothed.
            assert page.wait_for(f"(card => card && {LINES}.length == 4)({card})")
        page.draw("dead_scalars.png", "shown('tf-scalar-card')[4]")


def test_each_chart_of_the_layout_has_lines(death: Path, page: "Page") -> None:
    charts = tensorboard.layout(Overview, LayerActivations)
    tags = EventAccumulator(str(death / "dying/version_0")).Reload().Tags()["scalars"]
    lines = {
        title: sum(re.match(pattern, tag) is not None for pattern in chart.tags for tag in tags)
        for title, chart in charts.items()
    }
    expected = [title for title, number in lines.items() if number]
    assert {"worst dead share", "dead share by layer", "drift between epochs by layer"} <= set(expected)
    with serving(death / "dying") as address:
        page.open(f"{address}/#custom_scalars")
        page.grow(2200)
        cards = "shown('tf-custom-scalar-multi-line-chart-card')"
        ours = f"{cards}.filter(card => {json.dumps(list(charts))}.includes(card.title))"
        shown = page.wait_for(f"(t => t.length >= {len(expected)} && t)({ours}.map(card => card.title))")
        assert shown == expected
        drawn = f"{ours}.map(card => {LINES}.length)"
        twice = [2 * lines[title] for title in expected]  # as they are, and smoothed
        page.wait_for(f"String({drawn}) == '{','.join(map(str, twice))}'")
        legends = "all('#toggle-matches-button, .toggle-matches-button', card.shadowRoot)"
        page.evaluate(f"{ours}.slice(0, 2).forEach(card => {legends}.forEach(button => button.click()))")
        page.draw("dead_charts.png", f"{ours}[{len(expected) - 1}]")


def test_the_curves_of_norms_have_lines(modes: Path, page: "Page") -> None:
    tags = [f"batch_norm/{what}/features.1" for what in ("mean_shift", "updates")]
    with serving(modes) as address:
        words = ("norm/updates/features", "norm/mean_shift", "prediction_change")
        page.open(f"{address}/#scalars&_smoothingWeight=0&tagFilter={'%7C'.join(words)}")
        page.grow(1400)
        for tag in tags:
            card = f"shown('tf-scalar-card').find(card => card.tag == '{tag}')"
            assert page.wait_for(f"(card => card && {LINES}.length >= 2)({card})")
        page.draw("norm_scalars.png", "shown('tf-scalar-card')[3]")


def test_the_charts_of_norms_are_arranged_and_have_lines(modes: Path, page: "Page") -> None:
    charts = tensorboard.layout(batch_norm.Overview, batch_norm.LayerStatistics)
    tags = EventAccumulator(str(modes / "forgetting/version_0")).Reload().Tags()["scalars"]
    lines = [sum(re.match(each, tag) is not None for each in chart.tags for tag in tags) for chart in charts.values()]
    assert lines == [1, 2, 2, 2, 2]  # the largest, and both norms
    with serving(modes / "forgetting") as address:
        page.open(f"{address}/#custom_scalars")
        page.grow(4000)
        cards = "shown('tf-custom-scalar-multi-line-chart-card')"
        shown = page.wait_for(f"(t => t.length >= {len(charts)} && t)({cards}.map(card => card.title))")
        assert [title for title in shown if title in charts] == list(charts)
        ours = f"{cards}.filter(card => {json.dumps(list(charts))}.includes(card.title))"
        drawn = f"{ours}.map(card => {LINES}.length)"
        page.wait_for(f"{drawn}.every((count, index) => count >= {lines}[index])")  # most are drawn smoothed, too
        legends = "all('#toggle-matches-button, .toggle-matches-button', card.shadowRoot)"
        page.evaluate(f"{ours}.slice(1, 3).forEach(card => {legends}.forEach(button => button.click()))")
        last = f"{cards}.filter(card => !{json.dumps(list(charts))}.includes(card.title)).at(-1)"
        page.draw("norm_charts.png", f"{ours}[{len(charts) - 1}]", below=last)


# An outline begins and ends at the bottom; where there is something in a bucket, it is higher.
OUTLINES = """all('path.outline', card.shadowRoot).filter(e => {
    const heights = [...e.getAttribute('d').matchAll(/,([0-9.]+)/g)].map(found => Number(found[1]));
    return Math.max(...heights) - Math.min(...heights) > 1;
}).length"""
"""The outlines of a card of histograms that have a height."""


def test_each_layer_has_a_histogram(death: Path, page: "Page") -> None:
    with serving(death / "dying") as address:
        page.open(f"{address}/#histograms")
        for index, layer in enumerate(("features.1", "head/relu")):
            title = page.wait_for(f"shown('tf-histogram-loader').map(card => card.tag)[{index}]")
            assert title == f"activations/histogram/{layer}"
            assert page.wait_for(f"(card => card && {OUTLINES})(shown('vz-histogram-timeseries')[{index}])") >= 8
        page.draw("dead_histograms.png", "shown('tf-histogram-loader')[1]")


def test_the_forgotten_layer_is_a_table_on_the_text_page(clipped: Path, page: "Page") -> None:
    with serving(clipped / "forgotten") as address:
        page.open(f"{address}/#text")
        table = page.wait_for("shown('table').map(e => e.innerText).find(text => text.includes('GRD103'))")
    assert "parameter-not-optimized" in table
    assert "features" in table
    assert "2 parameters (640 weights) get gradients, but no optimizer has them" in table
    assert "WARNING" in table


def test_the_gradient_norm_is_drawn_before_and_after_clipping_with_its_band(clipped: Path, page: "Page") -> None:
    norms = [f"gradients/{what}/Adam (version_0)" for what in ("norm", "norm_after_clipping", "norm_mean")]
    with serving(clipped / "healthy") as address:
        page.open(f"{address}/#custom_scalars")
        page.grow(4000)
        card = "(card => card && {})(shown('tf-custom-scalar-margin-chart-card')[0])"
        assert page.wait_for(card.format("card.title")) == "gradient norm"
        assert page.wait_for(card.format(f"{LINES}.length >= 6"))  # each is drawn smoothed, too
        # The edges of the band are further apart than a line is thick; those of the other two lines are the lines.
        areas = "all('path.area', card.shadowRoot).map(e => e.getAttribute('d').slice(1, -1).split(/[L,]/).map(Number))"
        spread = """.map(path => path.filter((_, index) => index % 2)).map(ys => {
            const half = ys.length / 2;
            return Math.max(...ys.slice(0, half).map((y, index) => Math.abs(y - ys[ys.length - 1 - index])));
        })"""
        spreads = page.wait_for(card.format(f"(all => all.length == 3 && all)({areas}{spread})"))
        page.evaluate(card.format("all('.toggle-matches-button', card.shadowRoot).forEach(button => button.click())"))
        legend = "(all => all.length == 3 && all)(all('.match-list-entry', card.shadowRoot).map(e => e.innerText))"
        lines = page.wait_for(card.format(legend))
        errors = page.evaluate(card.format("all('.error-content', card.shadowRoot).map(e => e.offsetHeight)"))
        page.evaluate(card.format("card._toggleExpanded()"))  # as wide as the page
        above = "shown('tf-category-paginated-view')[1]"
        page.draw("gradient_norm.png", "shown('tf-custom-scalar-margin-chart-card')[0]", below=above)
    assert [line.split(maxsplit=1)[1] for line in lines] == norms
    flat, also_flat, band = sorted(spreads)
    assert flat == also_flat == 0
    assert band > 20
    assert not any(errors)


def test_the_charts_of_gradients_are_arranged_and_have_lines(clipped: Path, page: "Page") -> None:
    tags = EventAccumulator(str(clipped / "healthy/version_0")).Reload().Tags()["scalars"]
    charts = {
        title: sum(re.match(pattern, tag) is not None for pattern in chart.tags for tag in tags)
        for title, chart in tensorboard.layout(OptimizerGradients, LayerGradients).items()
        if not chart.band
    }
    assert charts.pop("gradient noise scale") == 0  # there is one batch a step
    assert charts["learning rate"] == 1
    assert charts["update ratio by layer"] == charts["gradient norm by layer"] == 3
    with serving(clipped / "healthy") as address:
        page.open(f"{address}/#custom_scalars")
        page.grow(4000)
        cards = "shown('tf-custom-scalar-multi-line-chart-card')"
        ours = f"{cards}.filter(card => {json.dumps(list(charts))}.includes(card.title))"
        assert page.wait_for(f"(t => t.length >= {len(charts)} && t)({ours}.map(card => card.title))") == list(charts)
        lines = list(charts.values())
        page.wait_for(f"{ours}.map(card => {LINES}.length).every((count, index) => count >= {lines}[index])")
        legends = "all('#toggle-matches-button, .toggle-matches-button', card.shadowRoot)"
        page.evaluate(f"{ours}.slice(-2).forEach(card => {legends}.forEach(button => button.click()))")
        categories = page.evaluate("shown('tf-category-paginated-view').map(e => e.category && e.category.name)")
        above = "shown('tf-custom-scalar-margin-chart-card')[0]"
        page.draw("gradient_charts.png", f"{ours}[{len(charts) - 1}]", below=above)
    assert categories[:4] == ["learning rate", "activations", "gradient norm", "gradients"]


def test_the_planned_and_the_used_rate_are_lines_of_one_chart(clipped: Path, page: "Page") -> None:
    with serving(clipped / "healthy") as address:
        page.open(f"{address}/#custom_scalars")
        page.grow(4000)
        cards = "shown('tf-custom-scalar-multi-line-chart-card')"
        card = f"(card => card && {{}})({cards}.find(card => card.title.startsWith('learning rate: ')))"
        assert page.wait_for(card.format("card.title")) == "learning rate: Adam"
        page.wait_for(card.format(f"{LINES}.length >= 2"))
        page.evaluate(card.format("all('.toggle-matches-button', card.shadowRoot).forEach(button => button.click())"))
        legend = "(t => t.length == 2 && t)(all('.match-list-entry', card.shadowRoot).map(e => e.innerText))"
        lines = page.wait_for(card.format(legend))
    assert sorted(line.split()[1] for line in lines) == ["learning_rate/planned/Adam", "learning_rate/used/Adam"]


def test_gradients_and_weights_have_histograms(clipped: Path, page: "Page") -> None:
    layers = ("features.0", "head.conv", "head.linear")
    expected = [f"gradients/{what}/{layer}" for what in ("histogram", "weights_histogram") for layer in layers]
    with serving(clipped / "healthy") as address:
        page.open(f"{address}/#histograms")
        page.grow(1400)
        found = page.wait_for("(t => t.length >= 8 && t)(shown('tf-histogram-loader').map(card => card.tag))")
        assert found[2:] == expected  # the first are of activations
        drawn = f"shown('vz-histogram-timeseries').map(card => {OUTLINES})"
        page.wait_for(f"(t => t.length == 8 && t.slice(2).every(count => count >= 4))({drawn})")
        loaders = "shown('tf-histogram-loader')"
        page.draw("gradient_histograms.png", f"{loaders}[7]", below=f"{loaders}[1]")


def test_the_filters_of_the_first_convolution_are_a_picture(clipped: Path, page: "Page") -> None:
    with serving(clipped / "healthy") as address:
        page.open(f"{address}/#images")
        assert page.wait_for("shown('tf-image-loader').map(e => e.tag)") == ["gradients/filters/features.0"]
        size = "all('img', shown('tf-image-loader')[0].shadowRoot).map(e => [e.naturalWidth, e.naturalHeight])[0]"
        side = 8 * (3 * 4 + 2)  # 64 filters of 3 by 3, each weight in four pixels by four, and a line around
        page.wait_for(f"String({size}) == '{side},{side}'")
        page.draw("gradient_filters.png", "shown('tf-image-loader')[0]")


def test_the_gap_is_drawn_with_its_band_beside_training_and_validation(overfitted: Path, page: "Page") -> None:
    titles = [f"{name}: training, validation and gap" for name in ("val_acc", "val_loss")]
    with serving(overfitted / "overfitting") as address:
        page.open(f"{address}/#custom_scalars")
        page.grow(5000)
        cards = "shown('tf-custom-scalar-margin-chart-card').slice(1)"  # the first is of gradients
        shown = page.wait_for(f"(t => t.length == 2 && t)({cards}.map(card => card.title))")
        assert sorted(shown) == titles
        page.wait_for(f"{cards}.every(card => {LINES}.length >= 6)")
        page.evaluate("all('.toggle-matches-button').forEach(button => button.click())")
        legend = "all('.match-list-entry', card.shadowRoot).map(e => e.innerText.split(/\\s+/)[1])"
        lines = page.wait_for(f"(all => all.every(each => each.length == 3) && all)({cards}.map(card => {legend}))")
        categories = page.evaluate("shown('tf-category-paginated-view').map(e => e.category && e.category.name)")
        above = "shown('tf-category-paginated-view')[3]"
        page.draw("gap_charts.png", f"{cards}[1]", below=above)
    assert [sorted(each) for each in lines] == [  # TensorBoard lists them as they arrive
        [f"gap/{what}{title.split(':')[0]}" for what in ("training/", "", "validation/")] for title in shown
    ]
    assert categories[4:] == ["generalization gap", "generalization gap: more"]


def test_the_onset_and_how_sure_the_gap_is_are_tables_on_the_text_page(overfitted: Path, page: "Page") -> None:
    with serving(overfitted / "overfitting") as address:
        page.open(f"{address}/#text")
        page.grow(1400)
        table = page.wait_for("shown('table').map(e => e.innerText).find(text => text.includes('GAP101'))")
        caption = page.wait_for("shown('table').map(e => e.innerText).find(text => text.includes('95 % of the gap'))")
        page.draw("gap_text.png", "shown('table').filter(e => e.innerText.includes('95 % of the gap'))[0]")
    assert "val_loss was best at step" in table
    assert {"val_acc", "val_loss", "needs"} <= set(caption.split())


def test_the_confusion_matrix_is_a_picture(overfitted: Path, page: "Page") -> None:
    with serving(overfitted / "overfitting") as address:
        page.open(f"{address}/#images")
        tags = page.wait_for("(t => t.length == 2 && t)(shown('tf-image-loader').map(e => e.tag))")
        assert "gap/confusion_matrix" in tags
        loader = f"shown('tf-image-loader')[{tags.index('gap/confusion_matrix')}]"
        size = f"all('img', {loader}.shadowRoot).map(e => [e.naturalWidth, e.naturalHeight])[0]"
        page.wait_for(f"(s => s && s[0] == s[1] && s[0] > 300)({size})")  # ten classes of some forty pixels
        page.draw("gap_confusion.png", loader)


def test_the_best_of_n_trials_is_drawn_with_its_band_over_the_number_of_trials(last_trial: Path, page: "Page") -> None:
    with serving(last_trial) as address:
        page.open(f"{address}/#custom_scalars&_smoothingWeight=0")
        card = "(card => card && {})(shown('tf-custom-scalar-margin-chart-card')[0])"
        assert page.wait_for(card.format("card.title")) == "best of n trials"
        page.wait_for(card.format(f"{LINES}.length >= 1"))
        ticks = "all('.x-axis text', card.shadowRoot).map(e => Number(e.textContent)).filter(Number.isFinite)"
        largest = page.wait_for(card.format(f"(all => all.length && Math.max(...all))({ticks})"))
        areas = "all('path.area', card.shadowRoot).map(e => e.getBoundingClientRect().height)"
        band = page.wait_for(card.format(f"(all => all.length == 1 && all[0])({areas})"))
        other = "shown('tf-custom-scalar-multi-line-chart-card').map(card => card.title)"
        assert page.evaluate(other) == ["expected best of n trials"]
        page.evaluate(card.format("all('.toggle-matches-button', card.shadowRoot).forEach(button => button.click())"))
        page.evaluate(card.format("card._toggleExpanded()"))  # as wide as the page
        page.draw("tuning_curve_charts.png", "shown('tf-custom-scalar-margin-chart-card')[0]")
    assert 18 <= largest < 30  # trials, and not the 184 steps of training
    assert band > 20


def test_the_charts_of_all_trials_are_the_same_two_and_have_no_errors(searched: Path, page: "Page") -> None:
    with serving(searched) as address:
        page.open(f"{address}/#custom_scalars")
        card = "(card => card && {})(shown('tf-custom-scalar-margin-chart-card')[0])"
        page.wait_for(card.format(f"{LINES}.length >= 10"))  # of all trials but the first few and those that failed
        titles = "shown('tf-custom-scalar-margin-chart-card, tf-custom-scalar-multi-line-chart-card').map(c => c.title)"
        assert page.evaluate(titles) == ["best of n trials", "expected best of n trials"]
        assert not any(page.evaluate("all('.error-content').map(e => e.offsetHeight)"))


def test_the_tuning_curve_is_a_picture(last_trial: Path, page: "Page") -> None:
    with serving(last_trial) as address:
        page.open(f"{address}/#images")
        assert page.wait_for("shown('tf-image-loader').map(e => e.tag)") == ["evp/tuning_curve"]
        size = "all('img', shown('tf-image-loader')[0].shadowRoot).map(e => [e.naturalWidth, e.naturalHeight])[0]"
        page.wait_for(f"(s => s && s[0] > 500 && s[1] > 400)({size})")
        page.draw("tuning_curve.png", "shown('tf-image-loader')[0]")


def test_the_tuning_curve_is_a_table_on_the_text_page(last_trial: Path, page: "Page") -> None:
    with serving(last_trial) as address:
        page.open(f"{address}/#text")
        page.grow(1400)
        # TensorBoard puts the text itself into a table.
        inner = "shown('table').filter(e => !e.querySelector('table')).map(e => e.innerText)"
        table = page.wait_for(f"{inner}.find(text => text.includes('unbiased'))")
        text = page.evaluate("shown('p').map(e => e.innerText).find(text => text.includes('Sweep digits'))")
    head, first, *_, last = table.splitlines()
    assert head.split("\t") == ["n", "device time", "mean", "unbiased", "spread", "median", "band"]
    assert first.split()[0] == "1"
    assert last.split()[0] in ("18", "19", "20")
    assert text.startswith("Sweep digits: 20 trials, val_acc (max), best 0.9")


def test_the_hparams_page_has_the_score_of_each_trial(searched: Path, page: "Page") -> None:
    scores = {}
    for path in searched.glob("*/expected_performance/*.json"):
        record = json.loads(path.read_text("utf-8"))
        scores[path.parent.parent.name] = record["score"]
    with serving(searched) as address:
        page.open(f"{address}/#hparams")
        page.grow(1200)
        # In the order of the page, row by row: cells are used again for other rows, and stand anywhere in the tree.
        cells = """shown('vaadin-grid-cell-content').filter(e => e.innerText.trim()).map(e => {
            const place = e.getBoundingClientRect();
            return [place.top, place.left, e.innerText.trim()];
        })"""
        found = page.wait_for(f"(all => all.filter(cell => cell[2].startsWith('trial_')).length >= 20 && all)({cells})")
        page.draw("tuning_curve_hparams.png", "shown('vaadin-grid')[0]")
    rows: dict[float, list[str]] = {}
    for top, _, text in sorted(found):
        rows.setdefault(top, []).append(text)
    metrics = {row[0]: row[-1] for row in rows.values() if row[0].startswith("trial_")}
    assert next(row for row in rows.values() if "Trial ID" in row)[-1] == "hp_metric"
    assert metrics.keys() == scores.keys()
    assert len(metrics) == 20
    numbers = {name: None if text == "NaN" else float(text) for name, text in metrics.items()}
    assert numbers == {name: score and pytest.approx(score, abs=1e-4) for name, score in scores.items()}


class Page:
    """One page of a browser, driven by the DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._last = 0
        self._address = "about:blank"

    def open(self, address: str) -> None:
        # By way of an empty page, or the last page might be taken for the next one while that is on its way.
        self._address = address
        self._call("Page.navigate", url="about:blank")
        self.wait_for("location.href == 'about:blank'")
        self._call("Page.navigate", url=address)
        self.wait_for("location.href != 'about:blank' && document.readyState == 'complete'")

    def evaluate(self, expression: str) -> Any:
        code = f"(() => {{ {FIND} return {expression}; }})()"
        answer = self._call("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str, *, seconds: float = 60) -> Any:
        """The value of the expression as soon as there is one; a page that stays without is opened once more."""
        begun, again = time.monotonic(), True
        while time.monotonic() < begun + seconds:
            if value := self.evaluate(expression):
                return value
            if again and time.monotonic() > begun + seconds / 3:
                again = False
                self._call("Page.navigate", url="about:blank")
                self._call("Page.navigate", url=self._address)
            time.sleep(0.2)
        pytest.fail(f"not on the page after {seconds} seconds: {expression}; it shows: {self.evaluate(TEXT)}")

    def grow(self, height: int) -> None:
        """Make the window so high that all is in view: TensorBoard draws nothing else."""
        self._call("Emulation.setDeviceMetricsOverride", width=1300, height=height, deviceScaleFactor=1, mobile=False)

    def draw(self, name: str, element: str, *, below: str = "") -> None:
        """With SCREENSHOTS, a picture of the page from its top, or from below an element, to the end of another."""
        if not SCREENSHOTS:
            return
        time.sleep(1)  # for what still moves into its place
        bottom = self.evaluate(f"{element}.getBoundingClientRect().bottom") + 10
        top = self.evaluate(f"{below}.getBoundingClientRect().bottom") if below else 0
        clip = {"x": 0, "y": top, "width": 1300, "height": bottom - top, "scale": 0.8}
        picture = self._call("Page.captureScreenshot", format="png", clip=clip)["data"]
        (Path(SCREENSHOTS) / name).write_bytes(base64.b64decode(picture))

    def _call(self, method: str, **params: Any) -> Any:
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": params}))
        while (answer := json.loads(self._socket.recv(timeout=60))).get("id") != self._last:
            pass
        return answer["result"]


TEXT = "shown('body > *, h3, table').map(e => e.innerText).join('\\n').slice(0, 2000)"


# TensorBoard that says when it has read everything: a page that is opened before stays without what came later.
SERVER = """
import logging
from tensorboard import main
logging.basicConfig(format="%(message)s")
logging.getLogger("tensorboard").setLevel(logging.INFO)
main.run_main()
"""


@contextmanager
def serving(logdir: Path) -> Iterator[str]:
    """The address of a TensorBoard server that has read the event files."""
    options = (f"--logdir={logdir.name}", "--port=0", "--host=localhost", "--load_fast=false", "--reload_interval=0")
    with background([sys.executable, "-c", SERVER, *options], cwd=logdir.parent) as log:
        port, _ = awaited(log, r"http://localhost:([0-9]+)/", "(done reloading)")
        yield f"http://localhost:{port}"


@contextmanager
def background(command: list[Any], **options: Any) -> Iterator[Any]:
    """A process that is ended at the end of the block, whether it wants to or not; gives the lines that it prints."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    with process:
        try:
            yield process.stdout
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def awaited(log: Any, *patterns: str) -> list[str]:
    """The group of the first line that matches, for each pattern, in whatever order they are printed."""
    lines: list[str] = []
    found: dict[str, str] = {}
    for line in log:
        lines.append(line)
        found |= {each: match[1] for each in patterns if (match := re.search(each, line))}
        if len(found) == len(patterns):
            return [found[each] for each in patterns]
    pytest.fail(f"not all of {patterns} were printed: {''.join(lines)}")

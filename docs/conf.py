"""How the documentation is built: ``sphinx-build -W -b html docs docs/_build/html``.

The catalogue and the tables of presets and versions are written from the callbacks, the rules, the measurements,
pyproject.toml and constraints.txt each time, so that they say what the code says.
"""

import dataclasses
import inspect
import math
import re
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any

import tomllib

import lightning_diagnostics
from lightning_diagnostics import catalogue, tensorboard
from lightning_diagnostics.findings import Rule, Severity, limit_table

project = "lightning-diagnostics"
author = "the authors of lightning-diagnostics"
release = version = lightning_diagnostics.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "lightning-diagnostics"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
exclude_patterns = ["_build", "_generated"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_ivar = True

HERE = Path(__file__).parent
_LINES = ("leak.md", "death.md", "mode.md", "untrained.md", "onset.md")


def setup(app: Any) -> None:
    app.connect("config-inited", lambda app, config: generate(HERE / "_generated"))


def generate(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "catalogue.md").write_text(catalogue_page(), encoding="utf-8")
    (folder / "presets.md").write_text(presets_table(), encoding="utf-8")
    (folder / "versions.md").write_text(versions_table(), encoding="utf-8")
    for name, line in zip(_LINES, finding_lines(), strict=True):
        (folder / name).write_text(line, encoding="utf-8")


def catalogue_page() -> str:
    """Every rule's page, every limit and every drawn quantity, by diagnostic."""
    parts = []
    for name, callback in catalogue.callbacks().items():
        room = callback.__module__.rpartition(".")[0]
        own = [rule for rule in catalogue.rules() if rule in import_module(f"{room}.rules").RULES]
        parts += [f"## {name}", "### Findings", *(rule_page(rule) for rule in own)]
        parts += ["### Limits", f"Override them with `{name}(limits={{...}})`.", limits_table(callback.default_limits)]
        parts += ["### What is drawn", *quantities_table(f"{room}.measure")]
    return "\n\n".join(parts) + "\n"


def rule_page(rule: Rule) -> str:
    *others, worst = ("note" if severity is Severity.INFO else str(severity) for severity in rule.severities)
    severities = f"{', '.join(others)} or {worst}" if others else worst
    text = re.sub(r"^## ", "##### ", rule.page, flags=re.MULTILINE)
    also = f" Also known as {', '.join(rule.aliases)}." if rule.aliases else ""
    preview = " A preview: not yet swept over healthy networks." if rule.preview else ""
    return f"#### {rule.code} {rule.name}\n\n*Reported as {severities}.*{also}{preview}\n\n{text}"


def limits_table(limits: Any) -> str:
    rows = []
    for key, (_, each) in limit_table(limits).items():
        allowed = f"{each.low:g} to {each.high:g}" if math.isfinite(each.high) else f"{each.low:g} or more"
        rows.append((f"`{key}`", f"{each.default:g}", allowed, each.meaning, _linked(each.source)))
    return table(("limit", "default", "allowed", "meaning", "where it comes from"), rows)


def _linked(source: str) -> str:
    """The words of a source, with a link where they name a page of this documentation."""
    return re.sub(r"(.*\S) \(docs: (\w+)\)", r"[\1](\2.md)", source)


def quantities_table(module: str) -> list[str]:
    """What is drawn, with the charts of the custom-scalars page where there are some."""
    classes = [each for _, each in inspect.getmembers(import_module(module), dataclasses.is_dataclass)]
    drawn = {each.tag: each for c in classes for each in tensorboard.quantities(c).values()}
    rows = [(f"`{each.tag}`", each.unit, each.chart or "", each.how) for _, each in sorted(drawn.items())]
    head = ("tag", "unit", "chart", "how it is computed")
    text = "As scalars, in every logger, at looks (W&B and MLflow: [with a difference](how-to.md#with-other-loggers))."
    if not any(chart for _, _, chart, _ in rows):
        return [text, table((*head[:2], head[3]), [(*row[:2], row[3]) for row in rows])]
    more = "`{layer}` stands for the name of a layer. *Chart* is the title on TensorBoard's Custom Scalars page. "
    return [f"{text} {more}Histograms are for TensorBoard and Weights & Biases.", table(head, rows)]


def presets_table() -> str:
    """What each preset of the suite sets, by diagnostic and option."""
    rows = []
    for room, name in catalogue.names().items():
        callback = catalogue.callbacks()[name]
        presets = {preset: callback.presets.get(preset, {}) for preset in catalogue.PRESETS}
        if None in presets.values():
            cells = ("left out" if each is None else "" for each in presets.values())
            rows.append((f"`{room}`", *cells))
        defaults = {key: each.default for key, each in inspect.signature(callback).parameters.items()}
        for option in dict.fromkeys(key for each in presets.values() for key in each or ()):
            cells = ("" if each is None else f"{each.get(option, defaults[option])}" for each in presets.values())
            rows.append((f"`{room}.{option}`", *cells))
    return table(("option", *(f"`{preset}`" for preset in catalogue.PRESETS)), rows) + "\n"


def versions_table() -> str:
    """What pyproject.toml asks for beside what constraints.txt pins."""
    settings = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = re.findall(r"^([\w.-]+)==(\S+)$", (HERE.parent / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    pins = {name.lower(): version for name, version in pinned}
    names = ("cli", "plots", "optuna", "ray", "examples", "loggers")
    extras = [each for name in names for each in settings["optional-dependencies"][name]]
    extras = [each for each in extras if not each.startswith("lightning-diagnostics")]  # these it has of the others
    rows = []
    for requirement in [*settings["dependencies"], *extras]:
        name, asked = re.fullmatch(r"([\w-]+)(?:\[\w+\])?(.*)", requirement).groups()
        rows.append((name, asked, pins[name.lower()]))
    return table(("package", "what is asked for", "what the tests ran with"), rows)


def finding_lines() -> list[str]:
    """The lines of the README that findings print, which a test compares with a real run, broken at spaces."""
    readme = (HERE.parent / "README.md").read_text(encoding="utf-8")
    lines = re.search(r"<!-- output: begin -->\n```text\n(.*?)\n```", readme, re.DOTALL)[1].splitlines()
    wrapped = [textwrap.fill(line, 88, break_long_words=False, break_on_hyphens=False) for line in lines]
    return [f"```text\n{text}\n```\n" for text in wrapped]


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

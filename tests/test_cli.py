"""The command as a user has it: the installed script, real folders, real processes, exit statuses."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lightning_diagnostics import Severity, __version__, catalogue
from lightning_diagnostics.cli import commands
from lightning_diagnostics.findings import limit_table, pages, read_baseline
from lightning_diagnostics.findings.records import FINDINGS_FILE
from tests.findings.test_records import RECORD, found, line, write_run

SCRIPT = Path(sys.executable).parent / "lightning-diagnostics"
VARIABLE = "LIGHTNING_DIAGNOSTICS"
ECHO = ("sh", "-c", f'printf %s "${VARIABLE}"')
TRAIN = """
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger


class Leaky(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.losses = []

    def training_step(self, batch, batch_idx):
        self.losses.append(self.layer(batch).square().mean())
        return self.losses[-1]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


quiet = dict(accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
Trainer(max_epochs=1, logger=CSVLogger("logs"), **quiet).fit(Leaky(), torch.utils.data.DataLoader(torch.ones(20, 4)))
"""
OPENED = (line(found()), line(found(None, Severity.INFO, code="TST901", name="blind")))


def run(*words: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Any:
    """The command with these words, as `subprocess.CompletedProcess`."""
    environment = {name: value for name, value in os.environ.items() if name not in (VARIABLE, "COLUMNS")}
    path = f"{SCRIPT.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [SCRIPT, *words],
        cwd=cwd,
        env={**environment, "PATH": path, **(env or {})},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def good(*words: str | Path, **more: Any) -> str:
    """What the command prints where it succeeds and has nothing to complain about."""
    done = run(*words, **more)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def bad(*words: str | Path, status: int = 2, **more: Any) -> str:
    """What the command says where it fails, without printing anything."""
    done = run(*words, **more)
    assert (done.returncode, done.stdout) == (status, "")
    return done.stderr.removesuffix("\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with a warning and a note."""
    return write_run(tmp_path / "version_3", *OPENED, record={**RECORD, "status": "finished"})


# The command itself.


def test_the_version_is_the_packages() -> None:
    assert good("--version") == f"lightning-diagnostics {__version__}\n"


def test_the_module_is_the_command_too() -> None:
    words = [sys.executable, "-m", "lightning_diagnostics.cli", "--version"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == good("--version")


def test_help_names_every_command_and_every_command_has_help() -> None:
    listed = good("--help")
    for name, command in commands.commands.items():
        assert f"\n  {name} " in listed
        assert good(name, "-h") == good(name, "--help")
        assert command.help


def test_a_reader_that_goes_away_is_no_fault() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run([SCRIPT, "rules"], stdout=writes, stderr=subprocess.PIPE, check=False)
    os.close(writes)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


def test_an_encoding_without_lines_of_tables_is_no_fault(folder: Path) -> None:
    done = run("report", folder, env={"PYTHONIOENCODING": "latin-1"})
    assert "? WARNING" in done.stdout
    assert done.stderr.startswith("Gate ")


@pytest.mark.parametrize(
    "words",
    [["rules"], ["rules", "--format", "json"], ["explain", "MEM101"], ["report", "RUN"], ["run", "--", "/none"]],
)
def test_nothing_heavy_is_loaded(folder: Path, words: list[str]) -> None:
    words = [str(folder) if word == "RUN" else word for word in words]
    code = f"""
import atexit, sys
heavy = {{"torch", "lightning", "pytorch_lightning", "numpy", "tensorboard"}}
atexit.register(lambda: print(*sorted(heavy & set(sys.modules)), "none", file=sys.stderr))
from lightning_diagnostics.cli import main
sys.argv[1:] = {words!r}
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "none"


# The rules and their pages.


def test_rules_are_listed_within_eighty_columns_where_there_is_no_terminal() -> None:
    assert good("rules") == pages.listing(catalogue.rules(), width=80) + "\n"
    assert max(map(len, good("rules").splitlines())) <= 80


def test_rules_are_listed_for_programs() -> None:
    listed = json.loads(good("rules", "--format", "json"))
    assert listed["version"] == 1
    assert [each["code"] for each in listed["rules"]] == [rule.code for rule in catalogue.rules()]
    first = catalogue.rules()[0]
    assert listed["rules"][0] == {
        "code": first.code,
        "name": first.name,
        "severities": [severity.name for severity in first.severities],
        "summary": first.summary,
        "aliases": list(first.aliases),
        "preview": first.preview,
    }


@pytest.mark.parametrize("rule", catalogue.rules(), ids=lambda rule: rule.code)
def test_every_rule_is_explained_by_its_page_and_limits(rule: catalogue.Rule) -> None:
    shown = good("explain", rule.code)
    assert shown == good("explain", rule.name.upper())
    assert rule.page in shown
    limits = import_module(rule.check.__module__).Limits
    own = [key for key in limit_table(limits) if key.startswith(f"{rule.name}.")]
    assert [word.split("`")[1] for word in shown.splitlines() if word.startswith("- `")] == own


def _on_a_terminal(*words: str) -> str:
    """What the command prints to a terminal."""
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen([SCRIPT, *words], stdout=theirs, env=environment) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # so Linux says that the other end is closed
                break
            if not part:
                break
            text += part
    os.close(ours)
    assert process.returncode == 0
    return text.decode()


def test_a_page_is_rendered_on_a_terminal_alone() -> None:
    shown = _on_a_terminal("explain", "dead-units")
    assert "\x1b[" in shown
    assert "## What it means" not in shown
    assert "What it means" in shown
    assert "\x1b[" not in good("explain", "dead-units")


def test_an_unknown_rule_is_quoted_in_the_first_line() -> None:
    (first,) = bad("explain", "retained-grahp").splitlines()
    head, tail = (
        "Error: unknown rule 'retained-grahp': near it are MEM101 (retained-graph)",
        "lightning-diagnostics rules",
    )
    assert first.startswith(head)
    assert first.endswith(f"; all are listed by: {tail}")


# What a report is printed as.


@pytest.mark.parametrize("form", ["json", "sarif"])
def test_for_programs_there_is_nothing_but_json(folder: Path, form: str) -> None:
    done = run("report", folder, "--format", form)
    plain = json.loads(done.stdout)
    assert plain["version"] == {"json": 1, "sarif": "2.1.0"}[form]
    assert done.stderr == "Gate (warning or worse): failed by 1 open finding: TST101 ill at model.a.\n"


def test_text_is_what_is_printed_unless_another_form_is_asked_for(folder: Path) -> None:
    done = run("report", "version_3", cwd=folder.parent)
    assert done.stdout == run("report", "version_3", "--format", "text", cwd=folder.parent).stdout
    assert done.stdout.splitlines()[0] == "Run version_3 finished at step 120: 1 finding, 1 note:"
    shown = run("report", "version_3", "--format", "markdown", cwd=folder.parent).stdout
    assert shown.splitlines()[0] == "## Run <code>version_3</code> finished at step 120"


def test_the_report_goes_to_a_file_if_one_is_named(folder: Path, tmp_path: Path) -> None:
    printed = run("report", folder, "--format", "json").stdout
    done = run("report", folder, "--format", "json", "--output", tmp_path / "report.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert (tmp_path / "report.json").read_text() == printed
    assert run("report", folder, "--format", "json", "--output", "-", cwd=tmp_path).stdout == printed
    assert not (tmp_path / "-").exists()
    path = str(tmp_path / "none" / "report.json")
    expected = f"Error: --output {path!r} cannot be written (No such file or directory)"
    assert bad("report", folder, "--output", path) == expected


# When a report fails.


@pytest.mark.parametrize(
    ("severity", "fails_on"),
    [
        (Severity.INFO, {"note"}),
        (Severity.WARNING, {"note", "warning"}),
        (Severity.ERROR, {"note", "warning", "error"}),
    ],
)
@pytest.mark.parametrize("fail_on", ["never", "note", "warning", "error"])
def test_the_exit_status_is_one_from_the_severity_on(
    tmp_path: Path, severity: Severity, fails_on: set[str], fail_on: str
) -> None:
    write_run(tmp_path, line(found(severity=severity)))
    assert run("report", tmp_path, "--fail-on", fail_on).returncode == int(fail_on in fails_on)


def test_warnings_fail_unless_told_otherwise_and_closed_findings_never(tmp_path: Path) -> None:
    closed = line(found("model.b", Severity.ERROR, status="closed"), "closed")
    for lines, status in (([line(found()), closed], 1), ([closed], 0), ([line(found(None, Severity.INFO))], 0)):
        assert run("report", write_run(tmp_path, *lines)).returncode == status


def test_a_healthy_run_passes_in_words(tmp_path: Path) -> None:
    done = run("report", write_run(tmp_path, record={**RECORD, "status": "finished"}))
    assert (done.returncode, done.stderr) == (0, "Gate (warning or worse): passed.\n")
    assert done.stdout.splitlines()[0] == f"Run {tmp_path} finished at step 120: no findings."


def test_a_run_that_goes_on_is_reported_as_far_as_it_is(tmp_path: Path) -> None:
    write_run(tmp_path, OPENED[1], OPENED[0][:40])
    done = run("report", tmp_path)
    assert (done.returncode, done.stderr) == (0, "Gate (warning or worse): passed so far; the run goes on.\n")
    assert done.stdout.startswith(f"Run {tmp_path} goes on (or was killed) at step 120: no findings, 1 note:\n")
    with open(tmp_path / FINDINGS_FILE, "a", encoding="utf-8") as file:
        file.write(OPENED[0][40:])
    assert run("report", tmp_path).returncode == 1


# What is known.


def test_what_is_written_as_known_passes_until_there_is_more(folder: Path, tmp_path: Path) -> None:
    known = tmp_path / "known.json"
    done = run("report", folder, "--write-baseline", known)
    assert (done.returncode, done.stderr) == (0, f"Wrote 1 open finding to {known}.\n")
    done = run("report", folder, "--baseline", known)
    assert (done.returncode, done.stderr) == (0, "Gate (warning or worse): passed. Known to the baseline: 1.\n")
    write_run(folder, *OPENED, line(found("model.b")))
    assert run("report", folder, "--baseline", known).returncode == 1
    write_run(folder, *OPENED, line(found(severity=Severity.ERROR), "worsened"))
    assert run("report", folder, "--baseline", known).returncode == 1


@pytest.mark.parametrize(("fail_on", "number"), [("note", 2), ("warning", 1), ("error", 1), ("never", 1)])
def test_notes_are_written_as_known_where_they_fail(folder: Path, tmp_path: Path, fail_on: str, number: int) -> None:
    known = tmp_path / "known.json"
    assert run("report", folder, "--fail-on", fail_on, "--write-baseline", known).returncode == 0
    assert len(read_baseline(known)) == number
    assert run("report", folder, "--fail-on", fail_on, "--baseline", known).returncode == 0


def test_writing_for_programs_leaves_their_json_alone(folder: Path, tmp_path: Path) -> None:
    done = run("report", folder, "--format", "json", "--write-baseline", tmp_path / "known.json")
    assert json.loads(done.stdout)["counts"]["warning"] == 1


# What is wrong with a report.


def test_what_is_wrong_with_a_folder_or_a_baseline_is_the_first_line(folder: Path, tmp_path: Path) -> None:
    expected = (
        "Error: run folder '.' has neither diagnostics.json nor findings.jsonl: the newest run below it: 'version_3'"
    )
    assert bad("report", ".", cwd=tmp_path) == expected
    path = str(tmp_path / "none.json")
    how = "write one with: lightning-diagnostics report RUN_FOLDER --write-baseline FILE"
    assert bad("report", folder, "--baseline", path) == f"Error: baseline {path!r}: no such file; {how}"
    (folder / FINDINGS_FILE).write_text("x\n" + OPENED[0])
    assert bad("report", folder).startswith(f"Error: {str(folder / FINDINGS_FILE)!r}, line 1: is not JSON (")


def test_an_empty_name_of_a_file_is_not_passed_over(folder: Path) -> None:
    assert bad("report", folder, "--baseline", "").startswith("Error: baseline '': no such file; ")
    done = run("report", folder, "--write-baseline", "")
    assert (done.returncode, done.stderr) == (2, "Error: baseline '': is a folder; a baseline is a file\n")


def test_a_baseline_is_read_or_written_not_both(folder: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "known.json")
    expected = "--baseline and --write-baseline exclude each other: what is written is every open finding"
    assert bad("report", folder, "--baseline", path, "--write-baseline", path) == f"Error: {expected}"
    assert not os.path.exists(path)


@pytest.mark.parametrize("words", [[], ["report"], ["report", "x", "--fail-on", "fatal"], ["nothing"], ["run"]])
def test_misuse_is_two(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert "Usage: lightning-diagnostics" in done.stderr + done.stdout


# A command under diagnostics.


def given(*words: str | Path, **more: Any) -> dict[str, Any]:
    """What a command is given in its environment."""
    return json.loads(good("run", *words, "--", *ECHO, **more))


def test_a_command_gets_the_standard_suite() -> None:
    assert given() == {"preset": "standard"}


def test_options_become_arguments_of_the_suite() -> None:
    words = ["--preset", "thorough", "--select", "ACT", "--select", "MEM101,MEM102:model.*", "--ignore", "dead-units"]
    assert given(*words) == {
        "preset": "thorough",
        "select": ["ACT", "MEM101", "MEM102:model.*"],
        "ignore": ["dead-units"],
    }


def test_dots_lead_into_a_diagnostic_and_values_are_of_their_kind() -> None:
    options = {
        "activations.every_n_train_steps": "10",
        "activations.limits.dead-units.share": "0.75",
        "limits.retained-graph.steps": "8",
        "graph_leak": "off",
        "on_finding": "stop",
        "strict": "true",
    }
    words = [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
    assert given(*words) == {
        "preset": "standard",
        "activations": {"every_n_train_steps": 10, "limits": {"dead-units.share": 0.75}},
        "limits": {"retained-graph.steps": 8},
        "graph_leak": False,
        "on_finding": "stop",
        "strict": True,
    }


def test_options_win_over_the_file_and_a_baseline_is_found_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text("preset: light\nignore: [MEM901]\nselect: [MEM]\nbaseline: known.json\n")
    (tmp_path / "known.json").write_text('{"version": 1, "findings": []}')
    words = ["--config", "suite.yaml", "--preset", "thorough", "--select", "ACT"]
    expected = {"ignore": ["MEM901"], "baseline": str(tmp_path / "known.json")}
    assert given(*words, cwd=tmp_path) == {**expected, "preset": "thorough", "select": ["ACT"]}
    assert given("--baseline", "known.json", cwd=tmp_path)["baseline"] == str(tmp_path / "known.json")
    (tmp_path / "cli.yaml").write_text("diagnostics:\n  preset: light\n")
    assert given("--config", "cli.yaml", cwd=tmp_path) == {"preset": "light"}
    (tmp_path / "empty.yaml").write_text("")
    assert given("--config", "empty.yaml", cwd=tmp_path) == {"preset": "standard"}


@pytest.mark.parametrize(
    ("content", "option", "arguments"),
    [
        ("", "preset=light", {"preset": "light"}),
        ("preset: light", "preset=thorough", {"preset": "thorough"}),
        (
            "activations: {every_n_train_steps: 9, max_layers: 3}",
            "activations.every_n_train_steps=20",
            {"preset": "standard", "activations": {"every_n_train_steps": 20, "max_layers": 3}},
        ),
        ("activations: {max_layers: 3}", "activations=off", {"preset": "standard", "activations": False}),
        ("ignore: null\nselect: MEM", "ignore=ACT801", {"preset": "standard", "select": "MEM", "ignore": ["ACT801"]}),
        ("ignore: [MEM901]", "ignore=ACT801", {"preset": "standard", "ignore": ["ACT801"]}),
    ],
)
def test_an_option_wins_over_what_stands_in_the_file(
    tmp_path: Path, content: str, option: str, arguments: dict[str, Any]
) -> None:
    (tmp_path / "suite.yaml").write_text(content)
    assert given("--config", "suite.yaml", "--option", option, cwd=tmp_path) == arguments


def test_what_the_environment_asked_for_before_is_replaced() -> None:
    assert given("--preset", "light", env={VARIABLE: "off"}) == {"preset": "light"}


def test_the_command_takes_the_place_of_the_process() -> None:
    words = [SCRIPT, "run", "--", sys.executable, "-c", "import os; print(os.getpid())"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.communicate()[0] == f"{process.pid}\n"


@pytest.mark.parametrize(("program", "status"), [("exit 7", 7), ("kill -TERM $$", -signal.SIGTERM)])
def test_the_status_is_the_commands(program: str, status: int) -> None:
    assert run("run", "--", "sh", "-c", program).returncode == status


def test_the_command_meets_a_closed_pipe_as_without_us() -> None:
    assert good("run", "--", "sh", "-c", "yes | head -n 1") == "y\n"


@pytest.mark.parametrize("dashes", [["--"], []])
def test_words_after_the_command_are_its_own(dashes: list[str]) -> None:
    words = ["--preset", "wrong", "--", "--help", "-h", "$x", "a b"]
    program = ["sh", "-c", 'for word; do echo "$word"; done', "sh"]
    assert good("run", "--preset", "light", *dashes, *program, *words).splitlines() == words


def test_processes_of_torchrun_inherit_it(tmp_path: Path) -> None:
    script = f"import os; open('given' + os.environ['RANK'], 'w').write(os.environ['{VARIABLE}'])"
    (tmp_path / "train.py").write_text(script)
    words = ["--", "torchrun", "--standalone", "--nproc-per-node", "2", "train.py"]
    done = run("run", "--preset", "light", *words, cwd=tmp_path, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"given{rank}").read_text() for rank in range(2)] == ['{"preset": "light"}'] * 2


def test_a_script_is_diagnosed_reported_and_known_the_next_time(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    assert run("run", "--select", "MEM", "--", sys.executable, "train.py", cwd=tmp_path).returncode == 0
    first, second = "logs/lightning_logs/version_0", "logs/lightning_logs/version_1"
    done = run("report", first, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "Gate (warning or worse): failed by 1 open finding: MEM101 retained-graph at model.losses.\n",
    )
    assert done.stdout.splitlines()[0] == f"Run {first} finished at step 19: 1 finding:"
    enabled = """Enabled by LIGHTNING_DIAGNOSTICS={"preset": "standard", "select": ["MEM"]}."""
    assert done.stdout.splitlines()[-1] == enabled
    assert run("report", first, "--write-baseline", "known.json", cwd=tmp_path).returncode == 0
    words = ["--select", "MEM", "--baseline", "known.json"]
    assert run("run", *words, "--", sys.executable, "train.py", cwd=tmp_path).returncode == 0
    done = run("report", second, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "Gate (warning or worse): passed.\n")
    assert done.stdout.splitlines()[0] == f"Run {second} finished at step 19: no findings."


# What is wrong with a run under diagnostics.


def test_a_command_that_is_not_there_or_cannot_be_run_is_named_as_shells_do(tmp_path: Path) -> None:
    assert bad("run", "--", "no-such", status=127) == "Error: command 'no-such' not found"
    expected = "Error: command 'train.py' not found (a script of Python: python train.py)"
    assert bad("run", "train.py", status=127) == expected
    (tmp_path / "train").touch(mode=0o644)
    expected = f"Error: command {str(tmp_path / 'train')!r} cannot be run (Permission denied)"
    assert bad("run", tmp_path / "train", status=126) == expected


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--option", "x"], "option 'x': expected key=value, e.g. activations.every_n_train_steps=10"),
        (["--option", "a..b=3"], "option 'a..b=3': expected key=value, e.g. activations.every_n_train_steps=10"),
        (["--option", "=3"], "option '=3': expected key=value, e.g. activations.every_n_train_steps=10"),
        (
            ["--option", "limits.=3"],
            "option 'limits.=3': expected key=value, e.g. activations.every_n_train_steps=10",
        ),
        (
            ["--config", "list.yaml"],
            "the file 'list.yaml' holds [1]: expected arguments of Diagnostics by name, e.g. preset: thorough",
        ),
        (["--config", "date.yaml"], "baseline=datetime.date(2020, 1, 1): expected the path of a file"),
    ],
)
def test_what_cannot_be_understood_is_said_before_anything_starts(tmp_path: Path, words: list[str], error: str) -> None:
    (tmp_path / "list.yaml").write_text("[1]")
    (tmp_path / "date.yaml").write_text("baseline: 2020-01-01")
    assert bad("run", *words, "--", "touch", "started", cwd=tmp_path) == f"Error: {error}"
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("words", "beginning"),
    [
        (["--ignore", "dead-untis"], "ignore='dead-untis': no such rule (did you mean 'dead-units'?)"),
        (["--option", "activation.window=3"], "unknown argument 'activation': allowed are preset, select, ignore"),
        (["--option", "activations.foo=3"], "activations: unknown option 'foo': allowed are 'every_n_train_steps', "),
        (["--option", "limits.dead-units.share=x"], "activations: limit 'dead-units.share' is 'x': expected a number"),
        (["--config", "bad.yaml"], "the file 'bad.yaml' is not YAML (while parsing"),
        (["--baseline", "bad.yaml"], "baseline 'FOLDER/bad.yaml': is not JSON ("),
        (["--baseline", ""], "baseline '': no such file; write one with: "),
        (["--config", ""], "the file '' cannot be read (No such file or directory, "),
        (
            ["--config", "none.yaml"],
            "the file 'none.yaml' cannot be read (No such file or directory, seen from 'FOLDER')",
        ),
        (["--preset", "light", "--option", "preset=thorough"], "preset is given twice, as 'light' and as 'thorough'"),
    ],
)
def test_what_the_suite_would_refuse_is_said_before_anything_starts(
    tmp_path: Path, words: list[str], beginning: str
) -> None:
    (tmp_path / "bad.yaml").write_text("[1")
    said = bad("run", *words, "--", "touch", "started", cwd=tmp_path)
    assert said.startswith(f"Error: {beginning.replace('FOLDER', str(tmp_path))}")
    assert not (tmp_path / "started").exists()

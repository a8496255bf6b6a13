"""A process in which Lightning has been imported, and which runs scripts in copies of itself: a fresh one each."""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

KEPT = ("PATH", "HOME", "LANG", "TMPDIR")


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """A user's environment, in which nothing is switched on."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **(more or {})}


class Workshop:
    """Runs scripts as ``python SCRIPT WORDS`` does, without importing the same modules anew for each."""

    def __init__(self, *modules: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )

    def run(self, folder: Path, *words: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
        """The exit status, output and errors of a script of a folder."""
        job = {"folder": str(folder), "argv": words, "env": environment(env)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        status, out, err = json.loads(self._process.stdout.readline())
        return status, out, err

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=60)


def python(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """The same of ``python WORDS``: a process that has imported nothing yet."""
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment(env), capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                _become(**json.loads(line))
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        answers.write(json.dumps([status, *texts]) + "\n")
        answers.flush()


def _become(folder: str, argv: list[str], env: dict[str, str]) -> None:
    """Run a script as Python does, and end."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = argv
    sys.path[0] = folder
    status = 0
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  # Python itself prints it and goes
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        import_module(name)
    _serve()

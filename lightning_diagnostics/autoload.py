"""What Lightning calls whenever a Trainer is made: the suite, if ``LIGHTNING_DIAGNOSTICS`` asks for it.

Nothing is imported until it does, and nothing that is wrong with it keeps a Trainer from being made.
"""

import os
from typing import Any

VARIABLE = "LIGHTNING_DIAGNOSTICS"
"""The environment variable."""

_ON = ("on", "1", "true", "yes")
_OFF = ("", "off", "0", "false", "no", "none")
_FILES = (".yaml", ".yml", ".json")
_LISTS = ("select", "ignore")
_OWN = ("preset", *_LISTS, "baseline", "limits", "on_finding", "at", "strict")
_refused: set[str] = set()  # values that were reported


def callbacks() -> list[Any]:
    """The callbacks that the environment asks for; none if it asks for none, or for what there is not."""
    value = os.environ.get(VARIABLE, "").strip()
    if value.lower() in _OFF:
        return []
    try:
        return _made(value)
    except (OSError, TypeError, ValueError) as fault:
        _report(value, str(fault))
    except Exception as fault:  # noqa: BLE001  # a fault of ours must not keep a Trainer from being made
        _report(value, f"{type(fault).__name__}: {fault}", fault)
    return []


def _made(value: str) -> list[Any]:
    arguments = settings(value)
    if arguments is None:
        return []
    from lightning_diagnostics.callback.suite import Diagnostics

    suite = Diagnostics(**arguments)
    suite.enabled_by = f"{VARIABLE}={value}"
    return [suite]


def _report(value: str, why: str, fault: Exception | None = None) -> None:
    """Say once, in the first of several processes, that the value is not understood."""
    if value in _refused:
        return
    _refused.add(value)
    import logging
    from contextlib import suppress

    with suppress(Exception):  # nothing that fails here is worth a run
        from lightning_utilities.core.rank_zero import rank_zero_only

        if getattr(rank_zero_only, "rank", 0) != 0:
            return
    with suppress(Exception):
        from lightning_diagnostics.callback import terminal

        terminal.set_up()
    with suppress(Exception):
        logger = logging.getLogger("lightning_diagnostics")
        logger.error("%s=%s: %s; training goes on without diagnostics", VARIABLE, value, why, exc_info=fault)


def settings(value: str) -> dict[str, Any] | None:
    """The arguments of ``Diagnostics`` that a value of the variable stands for (imports neither torch nor Lightning).

    Args:
        value: ``off``; ``on``; a preset; diagnostics by folder or class, of which only those are wanted; rules as in
            ``select``; ``key=value`` with an argument of the suite (``on_finding=stop``), an option of a diagnostic
            (``activations.every_n_train_steps=10``) or a limit (``limits.dead-units.share=0.8``); several of these with
            commas between; a mapping of arguments in JSON or YAML; or the path of a file with such a mapping.

    Returns:
        The arguments; None for ``off``.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if a word or a name is not known.
    """
    value = value.strip()
    if value.lower() in _OFF:
        return None
    if value.startswith("{"):
        found = _mapping(value, "the value")
    elif value.lower().endswith(_FILES) and "=" not in value:
        found = _mapping(_read(value), f"the file {value!r}")
    else:
        found = _words(value)
    _check(found)
    return None if found.get("preset") in (False, "off") else found


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except OSError as fault:
        raise type(fault)(f"the file {path!r} cannot be read ({fault.strerror})") from None


def _mapping(text: str, source: str) -> dict[str, Any]:
    """The arguments in a text of JSON or YAML."""
    import yaml

    try:
        found = _value(text)
    except yaml.YAMLError as fault:
        raise ValueError(f"{source} is not YAML ({' '.join(str(fault).split())})") from None
    if isinstance(found, dict) and found.keys() == {"diagnostics"} and isinstance(found["diagnostics"], dict):
        found = found["diagnostics"]  # as it stands in a file for `DiagnosticsCLI`
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ValueError(f"{source} holds {found!r}: expected a mapping of arguments, e.g. {{preset: thorough}}")
    return found


def _value(text: str) -> Any:
    """What a text stands for: in JSON first, for YAML as it is commonly read takes 1e-5 for a word."""
    import json

    import yaml

    try:
        return json.loads(text)
    except ValueError:
        return yaml.safe_load(text)


def _words(value: str) -> dict[str, Any]:
    """The arguments that words with commas between them stand for."""
    from lightning_diagnostics import catalogue
    from lightning_diagnostics.findings import is_rule

    rooms = {word.lower(): room for room, name in catalogue.names().items() for word in (room, name)}
    presets = {**dict.fromkeys(_ON, "standard"), **dict.fromkeys(_OFF, "off")}
    presets |= {preset: preset for preset in catalogue.PRESETS}
    rules = catalogue.rules()
    found: dict[str, Any] = {}
    only: list[str] = []
    for word in _split(value):
        key, equals, text = word.partition("=")
        if equals:
            _set(found, key.strip(), text)
        elif word.lower() in presets:
            _set(found, "preset", presets[word.lower()])
        elif word.lower() in rooms:
            only.append(rooms[word.lower()])
        elif is_rule(word, rules):
            found.setdefault("select", []).append(word)
        else:
            raise ValueError(f"unknown word {word!r}: {_allowed(word)}")
    if only:
        wanted = {room: room in only for room in catalogue.rooms()}
        found = {**wanted, **found}
    return found


def _split(value: str) -> list[str]:
    """The words of a value; commas in brackets and quotes are parts of a word."""
    import re

    return re.findall(r"(?:\[[^\]]*\]|\{[^}]*\}|\"[^\"]*\"|'[^']*'|[^,\s])+", value)


def _set(found: dict[str, Any], key: str, text: str) -> None:
    """Take up one ``key=value``; the first dot of a key leads into a mapping, and lists grow."""
    import yaml

    try:
        value = _value(text)
    except yaml.YAMLError:
        value = text
    name, dot, inner = key.partition(".")
    if name in _LISTS:
        found.setdefault(name, []).extend(value if isinstance(value, list) else [text])
    elif dot:
        known = found.get(name)
        found[name] = {**(known if isinstance(known, dict) else {}), inner: value}
    elif name in found and found[name] != value:
        raise ValueError(f"{name} is given twice, as {found[name]!r} and as {value!r}: expected one value")
    else:
        found[name] = value


def _check(found: dict[str, Any]) -> None:
    """Check what can be checked without torch: the names of arguments, the preset, and rules."""
    from lightning_diagnostics import catalogue
    from lightning_diagnostics.findings import choices

    for name in found:
        if name not in (*_OWN, *catalogue.rooms()):
            raise ValueError(f"unknown argument {name!r}: allowed are {', '.join((*_OWN, *catalogue.rooms()))}")
    presets = (*catalogue.PRESETS, "off", False)
    if found.get("preset", "standard") not in presets:
        raise ValueError(f"preset={found['preset']!r}: allowed are {', '.join(map(repr, presets[:-1]))}")
    for argument in _LISTS:
        choices(argument, found.get(argument), catalogue.rules())


def _allowed(word: str) -> str:
    """What a word may be, and what it may have been meant to be."""
    from difflib import get_close_matches

    from lightning_diagnostics import catalogue

    rules = [each for rule in catalogue.rules() for each in (rule.name, rule.code)]
    names = [*catalogue.PRESETS, *catalogue.rooms(), *catalogue.names().values(), *rules]
    near = get_close_matches(word, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"{hint}allowed are a preset ({', '.join(catalogue.PRESETS)}), 'off', diagnostics "
        f"({', '.join(catalogue.rooms())}), codes and names of rules (lightning-diagnostics rules lists them), "
        "key=value (activations.every_n_train_steps=10), and a YAML file"
    )

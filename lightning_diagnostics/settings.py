"""The arguments of the suite as words, in a mapping or in a file: what the environment and the command line take.

Nothing here loads torch or Lightning, so only names are checked: of arguments, presets, diagnostics and rules.
"""

import contextlib
import json
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import yaml

from lightning_diagnostics import catalogue
from lightning_diagnostics.findings import choices, is_rule

ON = ("on", "1", "true", "yes")
"""Words for the preset ``"standard"``."""

OFF = ("", "off", "0", "false", "no", "none")
"""Words for no diagnostics at all."""

_FILES = (".yaml", ".yml", ".json")
_LISTS = ("select", "ignore")
_OWN = ("preset", *_LISTS, "baseline", "limits", "on_finding", "at", "strict")
_WORD = re.compile(r"(?:\[[^\]]*\]|\{[^}]*\}|\"[^\"]*\"|'[^']*'|[^,\s])+")  # what stands in brackets is not cut


def parse(text: str) -> dict[str, Any] | None:
    """The arguments of ``Diagnostics`` that a text stands for.

    Args:
        text: ``off``; ``on``; a preset; diagnostics by folder or class, of which only those are wanted; rules as in
            ``select``; ``key=value`` with an argument of the suite (``on_finding=stop``), an option of a diagnostic
            (``activations.every_n_train_steps=10``) or a limit (``limits.dead-units.share=0.8``); several of these with
            commas between; a mapping of arguments in JSON or YAML; or the path of a file with such a mapping.

    Returns:
        The arguments; None for ``off``.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if a word or a name is not known.
    """
    text = text.strip()
    if text.lower() in OFF:
        return None
    if text.startswith("{"):
        found = _mapping(text, "the mapping")
    elif text.lower().endswith(_FILES) and "=" not in text:
        found = read(text)
    else:
        found = _words(text)
    check(found)
    return None if found.get("preset") in (False, "off") else found


def read(path: str) -> dict[str, Any]:
    """The arguments in a file, by themselves or under the key ``diagnostics``, as `DiagnosticsCLI` has them.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it holds no mapping of arguments.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as fault:
        seen = "" if os.path.isabs(path) else f", seen from {os.getcwd()!r}"  # a program may change its folder
        raise type(fault)(f"the file {path!r} cannot be read ({fault.strerror}{seen})") from None
    except UnicodeDecodeError as fault:
        raise ValueError(f"the file {path!r} is not YAML ({fault})") from None
    return _mapping(text, f"the file {path!r}")


def put(arguments: dict[str, Any], option: str) -> None:
    """Take up one ``key=value``: dots lead into the options of a diagnostic, and lists grow.

    Raises:
        ValueError: if a name is missing, or an argument has another value already.
    """
    key, equals, text = option.partition("=")
    head, dot, limit = key.strip().partition("limits.")  # the name of a limit has dots of its own
    *parts, last = [*head.split(".")[:-1], "limits", limit] if dot else head.split(".")
    if not equals or not all((*parts, last)):
        raise ValueError(f"option {option!r}: expected key=value, e.g. activations.every_n_train_steps=10")
    for part in parts:
        if not isinstance(arguments.get(part), dict):
            arguments[part] = {}
        arguments = arguments[part]
    try:
        value = _value(text)
    except yaml.YAMLError:
        value = text
    if last in _LISTS and not parts:
        arguments.setdefault(last, []).extend(value if isinstance(value, list) else [text])
    elif arguments.setdefault(last, value) != value:
        raise ValueError(f"{key} is given twice, as {arguments[last]!r} and as {value!r}: expected one value")


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of one mapping over those of another; options and limits are joined, and all else is replaced."""
    found = {**below}
    for name, value in above.items():
        under = found.get(name)
        found[name] = merged(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return found


def check(arguments: Mapping[str, Any]) -> None:
    """Check the names in the arguments of the suite, which checks everything else itself.

    Raises:
        TypeError: if ``select`` or ``ignore`` is of the wrong kind.
        ValueError: if a name is not known.
    """
    for name in arguments:
        if name not in (*_OWN, *catalogue.rooms()):
            raise ValueError(f"unknown argument {name!r}: allowed are {', '.join((*_OWN, *catalogue.rooms()))}")
    presets = (*catalogue.PRESETS, "off", False)
    if arguments.get("preset", "standard") not in presets:
        raise ValueError(f"preset={arguments['preset']!r}: allowed are {', '.join(map(repr, presets[:-1]))}")
    for argument in _LISTS:
        choices(argument, arguments.get(argument), catalogue.rules())


def _mapping(text: str, source: str) -> dict[str, Any]:
    try:
        found = _value(text)
    except yaml.YAMLError as fault:
        raise ValueError(f"{source} is not YAML ({' '.join(str(fault).split())})") from None
    if isinstance(found, dict) and found.keys() == {"diagnostics"}:
        found = found["diagnostics"]
        found = {"preset": "standard" if found else "off"} if isinstance(found, bool) else found
    found = {} if found is None else found
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ValueError(f"{source} holds {found!r}: expected arguments of Diagnostics by name, e.g. preset: thorough")
    return found


def _value(text: str) -> Any:
    """What a text stands for: in JSON first, for YAML as it is commonly read takes 1e-5 for a word."""
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return yaml.safe_load(text)


def _words(text: str) -> dict[str, Any]:
    """The arguments that words with commas between them stand for."""
    rooms = {word.lower(): room for room, name in catalogue.names().items() for word in (room, name)}
    presets = {**dict.fromkeys(ON, "standard"), **dict.fromkeys(OFF, "off"), **{p: p for p in catalogue.PRESETS}}
    rules = catalogue.rules()
    found: dict[str, Any] = {}
    only: list[str] = []
    asked: list[str] = []
    for word in _WORD.findall(text):
        if "=" in word:
            put(found, word)
        elif word.lower() in presets:
            put(found, f'preset="{presets[word.lower()]}"')
        elif word.lower() in rooms:
            only.append(rooms[word.lower()])
        elif is_rule(word, rules):
            asked.append(word)
        else:
            raise ValueError(f"unknown word {word!r}: {_allowed(word)}")
    if asked:  # beside the rules that are named, those of the diagnostics that are
        asked += [rule.code for room in only for rule in catalogue.rules(room) if not rule.preview]
        found["select"] = [*asked, *found.get("select", [])]
    wanted = {room: room in only for room in catalogue.rooms() if room in only or (only and not asked)}
    return {**wanted, **found}


def _allowed(word: str) -> str:
    """What a word may be, and what it may have been meant to be."""
    rules = [each for rule in catalogue.rules() for each in (rule.name, rule.code)]
    names = [*catalogue.PRESETS, *catalogue.rooms(), *catalogue.names().values(), *rules]
    near = get_close_matches(word, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"{hint}allowed are a preset ({', '.join(catalogue.PRESETS)}), 'off', diagnostics "
        f"({', '.join(catalogue.rooms())}), codes and names of rules (lightning-diagnostics rules lists them), "
        "key=value (activations.every_n_train_steps=10), and a YAML file"
    )

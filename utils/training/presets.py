"""Operating points by name (presets.toml): the settings that a paper, or the authors of a method, report or run."""

import shlex
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_suffix(".toml")


class Preset(NamedTuple):
    """source: where its values come from. chosen: what nobody published, so that the value is ours; "" for nothing.
    argv: its flags. needs: flags that the command must have beside it, with RUN for a run of one's own."""

    name: str
    source: str
    chosen: str
    argv: tuple[str, ...]
    needs: tuple[str, ...] = ()


@cache
def presets_of(script: str) -> dict[str, Preset]:
    """{name: operating point} of an entry script, such as main_CD.py, in the order of the file."""
    entries = tomllib.loads(FILE.read_text(encoding="utf-8"))["preset"]
    return {entry["name"]: Preset(entry["name"], entry["source"], entry.get("chosen", ""),
                                  tuple(shlex.split(entry["flags"])), tuple(shlex.split(entry.get("needs", ""))))
            for entry in entries if entry["script"] == script}


def changes(values: Mapping[str, object], settings: Mapping[str, object]) -> dict[str, object]:
    """{flag: value} of the settings that differ from the preset's `values`."""
    return {name: settings[name] for name, value in values.items() if settings[name] != value}


def departures(result: Mapping[str, object]) -> str:
    """`--epochs 2, --learning_rate 0.01`: in what a run's settings or result depart from its preset; "" for nothing.
    Of a row of runs.csv it is this text already."""
    changed = result.get("preset_changes") or {}
    return changed if isinstance(changed, str) else ", ".join(f"--{name} {value}" for name, value in changed.items())


def note(settings: Mapping[str, object]) -> str:
    """What a run says at its start about its preset; "" for a run without."""
    if not settings.get("preset"):
        return ""
    preset = presets_of(str(settings["script"])).get(str(settings["preset"]))
    source = f" ({preset.source})" if preset else ""
    chosen = f"; not published, chosen here: {preset.chosen}" if preset and preset.chosen else ""
    changed = departures(settings)
    return f"preset {settings['preset']}{source}{chosen}{f'; departs from it: {changed}' if changed else ''}"

"""What a forward pass counts, and files that are written whole or not at all.

spent = FORWARD x scored + TRAIN x trained     (forward passes of one example or token; a backward is two)
"""

import json
from collections.abc import Callable
from pathlib import Path

FORWARD, TRAIN = 1, 3  # scoring, and training, on one example (or token), in forward passes


def write_whole(file: Path, write: Callable[[Path], object]) -> Path:
    """Write a file whole or not at all, and return it: `write` fills a part, which then takes its name."""
    part = file.with_name(file.name + ".part")
    write(part)
    return part.replace(file)


def write_text(file: Path, text: str) -> Path:
    """Write a text file whole or not at all, the same bytes on every system."""
    return write_whole(file, lambda part: part.write_text(text, encoding="utf-8", newline="\n"))


def write_json(
    file: Path,
    content: object,
    *,
    indent: int | None = None,
    default: Callable[[object], object] | None = None,
) -> Path:
    """Write a JSON file whole or not at all; `indent` and `default` as for `json.dumps`."""
    return write_text(file, json.dumps(content, indent=indent, default=default))

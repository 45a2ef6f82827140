"""Do our strict reader and a library made for mathematics read GSM8K's own answers as they were meant?

    RSF_DATA=FOLDER python tests/readers.py

Each answer of the data set, without its calculator's notes, must be read as the number after its hash signs, and not as one more.
Some ten seconds; without RSF_DATA on the embedded problems. Writes results/readers.json, which notebook 11 shows.
"""

import json
import sys
from fractions import Fraction
from importlib import metadata
from pathlib import Path

from math_verify import parse, verify

from rsf.accounts import write_text
from rsf.lab import data
from rsf.lab.tasks import answers

FILE = Path(__file__).resolve().parent.parent / "results" / "readers.json"


def study(rows):
    """Return how many answers each reader takes for the number meant, how many for one more, and what it missed."""
    found = {name: {"right": 0, "one_more": 0, "missed": []} for name in ("answers.read", "math_verify")}
    for row in rows:
        meant = Fraction(row["answer"].rsplit("#### ", 1)[1].replace(",", ""))
        text = answers.rationale(row["answer"])
        read = parse(text)
        strict = answers.read(text)
        says = {
            "answers.read": (str(strict), [strict == number for number in (meant, meant + 1)]),
            "math_verify": (read[-1], [verify(parse(str(number)), read) for number in (meant, meant + 1)]),
        }
        for name, (reading, (right, one_more)) in says.items():
            found[name]["right"] += right
            found[name]["one_more"] += one_more
            if not right:
                found[name]["missed"].append(f"{meant} read as {reading}")
    return found


def main():
    problems = data.load("gsm8k")
    rows = [*problems.train, *problems.test]
    content = {
        "made_by": "python tests/readers.py",
        "data": problems.source,
        "versions": {"math-verify": metadata.version("math-verify")},
        "answers": len(rows),
        "readers": study(rows),
    }
    write_text(FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    sys.stdout.write(f"{content['readers']}\n")


if __name__ == "__main__":
    main()

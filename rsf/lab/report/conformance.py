"""The table of how often rsf.checks catches named faults in accept-reject code, from results/."""

import json

from rsf.lab import records
from rsf.lab.report.parts import table


def power_table() -> str:
    """Return the table of planted faults, and what the judges said of the installed transformers."""
    stored = json.loads((records.RESULTS / "checks-power.json").read_text(encoding="utf-8"))
    rows = [
        (
            row["fault"],
            f"{row['call']}: `{row['judge']}`",
            f"{row['calls']:,}",
            f"{row['caught']} of {row['repeats']}",
            f"{row['enough']:,}",
            f"{row['alarms']} of {row['twins']:,}",
        )
        for row in stored["faults"]
    ]
    head = ["fault", "one call yields", "calls", "caught", "enough", "its right twin accused"]
    told = [
        f"{what}: " + (f"p = {found['p']:.2f}" if found["passed"] else "refused")
        for what, found in stored["transformers"].items()
    ]
    return (
        f"{table(head, rows)}\n\nLevel {stored['level']:g}; *enough*: the least number of calls tried that "
        f"caught 198 of 200. Assisted generation of transformers {stored['versions']['transformers']}, tiny "
        f"models, {stored['transformers_calls']:,} calls each: {'; '.join(told)}."
    )

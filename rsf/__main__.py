"""python -m rsf: the commands behind `run.py`, one short function each."""

import argparse
import json
import logging
import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from rsf.acceptance import refuse_if
from rsf.lab import provenance, records, verdicts

AUDITED = ("above", "tilted", "clipped", "easy", "constant", "best_of")


def experiment(name, arms=None, seeds=None, rates=None, again=False):
    """Run what the protocol asks for and results/ lacks, the arms of a seed one after another.

    With `again`, runs go into build/again/ and are shown beside the stored ones.
    """
    section = records.protocol(name)
    records.must(
        "task" in section, f"the section {name} names no task that runs it: its files were made elsewhere"
    )
    task = import_module(f"rsf.lab.tasks.{section['task']}")
    declared = getattr(task, "declared", records.declared)  # a task may widen a grid
    asked = declared(name)
    wanted = [
        (arm, seed, rate)
        for arm, seed, rate in asked
        if arm in (arms or [arm]) and seed in (seeds or [seed]) and rate in (rates or [rate])
    ]
    stored = {records.key(record): record for record in records.runs(name)}
    folder = records.checkout() / "build" / "again" if again else None
    unlike = 0
    todo = [run for run in wanted if again or run not in stored]
    for arm, seed, rate in todo:
        of_grid = {} if rate is None else {"rate": rate}
        begun = records.now()
        run = task.run(name, arm, seed, **of_grid)
        (new,) = records.load(records.write(name, arm, seed, run, folder, begun=begun, **of_grid))
        shown = [
            f"{key} {value:.7g}" for key, value in run.numbers.items() if isinstance(value, (int, float))
        ]
        print(f"{name} {arm} {seed}{f' {rate:g}' if rate else ''}: {', '.join(shown)}", flush=True)
        unlike += _beside(stored.get((arm, seed, rate)), new) if again else 0
    if not again and len(declared(name)) > len(asked):
        return experiment(name, arms, seeds, rates)
    if there := len(wanted) - len(todo):
        print(f"{name}: {there} of {len(wanted)} runs are stored; --again runs them anew and compares")
    return bool(unlike)


def _beside(stored, new):
    """Print a stored run beside a new one; return whether they differ where they should not."""
    if stored is None:
        print("  no such run is stored")
        return False
    lines = records.compare(stored, new)
    same = stored["machine"].get("processor") == new["machine"]["processor"]
    apart = sum(line.endswith("differs") for line in lines)
    where = (
        "the same kind of processor"
        if same
        else "another kind of processor, or one that the file does not name"
    )
    lines.append(f"{len(lines) - apart} of {len(lines)} numbers are equal, on {where}; times are left out")
    print("\n".join(f"  {line}" for line in lines))
    return bool(apart) and same


def bench(name):
    """Run a benchmark of the protocol, alone on the machine, on one thread."""
    records.checkout()
    begun = records.now()
    arm, run = import_module(f"rsf.lab.bench.{name}").run()
    file = records.write(f"bench-{name}", arm, 0, run, begun=begun)
    print(f"made {file.relative_to(records.ROOT)}; now: python -m rsf figures")


def full(names, assign, **options):
    """Run what the full sections lack, for as long as there is time; or give a seed to each of a class."""
    from rsf.lab import full

    for line in full.assign(assign, names) if assign else full.run(names, **options):
        print(line, flush=True)


def notebooks(task, names):
    """Build notebooks from their text, run the committed ones into build/, check them without running, or
    copy them without solutions for students; or store the Chinese ones, and say what is to translate."""
    from tqdm import tqdm

    from rsf.lab import notebooks

    if task == "zh":
        found = [line for name in notebooks.names(names, "zh") for line in notebooks.translate(name, "zh")]
        print("\n".join(found) or "notebooks: the Chinese ones say what the English ones say")
        return bool(found)
    wanted = notebooks.names(names)
    if task == "check":
        tests = ["tests/lab/test_notebooks.py", "tests/lab/test_notebooks_zh.py"]
        tests += ["-k", f"(no_problems or zh) and ({' or '.join(wanted)})"]
        return subprocess.call([sys.executable, "-m", "pytest", "-q", *tests], cwd=notebooks.ROOT)
    rows = []
    for row in tqdm(getattr(notebooks, task)(names), total=len(wanted), unit="notebook", file=sys.stderr):
        tqdm.write(f"{row['notebook']}: {row['verdict']}", file=sys.stdout)
        rows.append(row)
    if task != "run":
        return False
    width = max(map(len, wanted))
    print(f"\n{'notebook':{width}}  seconds    checks  verdict")
    for row in rows:
        print(f"{row['notebook']:{width}}  {row['seconds']:7.1f}  {row['checks']:>8}  {row['verdict']}")
    print("executed copies, figures and run.json are in build/\nto read and change them: python3 run.py lab")
    return any(row["verdict"] != "passed" for row in rows)


def lab(name, port=None, browser=True):
    """Open JupyterLab on copies in build/lab/, so that reading changes nothing in the checkout."""
    from rsf.lab import notebooks

    return notebooks.open_lab(name, port=port, browser=browser)


def figures():
    """Make the pictures and tables of the READMEs from results/."""
    from rsf.lab import report

    for file in report.make():
        print(f"made {file}")


def verify(files, machine):
    """Make the numbers of result files again, and print the verdicts.

    What holds of files that were sent goes into build/verified/, counts beside results/, and is drawn; what
    is refused or missing is named. By default of all of results/; then also the verdicts on the article's
    claims, and a short run is made again.
    """
    if machine:
        print(json.dumps(provenance.situation(), indent=2))
        return
    from rsf.lab import merged, tuning
    from rsf.lab import verify as verifier
    from rsf.lab.report.forest import forest_figure

    out = Path("build/verified")
    names, said = merged.merge(files, out) if files else (records.sections(), {})
    for file, line in said.items():
        print(f"{file}: {line}")
    for name in names:
        notes = verifier.section(name)
        findings = list(map(verdicts.judged, verdicts.contrasts(name)))
        if files:
            notes += [f"missing: {tuning.words(job)}" for job in tuning.jobs(name)]
            notes += [
                f"made {forest_figure(one, out / f'{name}-{n}.png')}" for n, one in enumerate(findings, 1)
            ]
        print(
            records.status(name) + ("" if findings or records.superseded(name) else ", decides nothing"),
            *verdicts.means(name),
            *notes,
            *findings,
            sep="\n  ",
        )
    for claim, judgement in verdicts.overall(names).items():
        print(f"{claim}:\n  {judgement}")
    return any("REFUSED" in line for line in said.values()) if files else _claims()


def _claims():
    """Print the verdict on each claim of the article, and run again what takes under a minute."""
    from rsf.lab.report import claims

    print("\nthe claims of the article, by section:")
    for line in claims.lines():
        print(f"{line.claim.article:8} {line.claim.words}\n{'':8} {line.judgement.word}, {line.kind}")
    print("\nnot run again: what stands above is made from the files and from the notebooks' stored outputs")
    if not records.CHECKOUT or not find_spec("torch"):
        return False
    print("run again: one seed of mini-last, all arms; the notebooks' checks: python3 run.py test\n")
    return experiment("mini-last", seeds=records.protocol("mini-last")["seeds"][:1], again=True)


def audit(file, rule, columns, figure):
    """Say what rejection did to a data set: a page of text and a figure, from JSON lines, CSV or parquet."""
    import rsf.rules
    from rsf.audit import audit, read

    for pair in columns:
        refuse_if(pair.count("=") != 1, f"--columns takes pairs such as prompt=question, got {pair!r}")
    if rule:
        text = " ".join(rule)
        parts = re.fullmatch(r"(\w+)(?:\s*\(([^()]*)\)|\s([^()]*))?", text) or ["", text, "", ""]
        name, numbers = parts[1], re.split(r"[,\s]+", (parts[2] or parts[3] or "").strip())
        refuse_if(
            name not in AUDITED,
            f"--rule must be one of {', '.join(AUDITED)} with its numbers, as in above(0.5), got {name!r}"
            + ", which decides from a past that no log holds"
            * (name in ("percentile", "at_rate", "random_like")),
        )
        options = {"clip": True} if name == "tilted" else {}
        try:
            rule = getattr(rsf.rules, name)(*map(float, filter(None, numbers)), **options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"--rule {text}: {error}") from error
    report = audit(read(file, dict(pair.split("=") for pair in columns)), rule)
    print(report)
    report.figure().savefig(figure)
    print(f"figure: {figure}")


def main(words=None):
    """Parse the words of the command line and run the command.

    A user's mistake is one line; RSF_TRACEBACK=1 shows where it was noticed.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for chatty in ("httpx", "traitlets"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    options = vars(_parser().parse_args(words))
    command = globals()[options.pop("command")]
    try:
        return command(**options)
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("RSF_TRACEBACK"):
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2


def _parser():
    parser = argparse.ArgumentParser(prog="python -m rsf", description=__doc__.split(":")[1].strip())
    commands = parser.add_subparsers(dest="command", required=True)
    for function, arguments in ARGUMENTS.items():
        one = commands.add_parser(function.__name__, help=function.__doc__.splitlines()[0])
        for flag, options in arguments.items():
            one.add_argument(flag, **options)
    return parser


SEVERAL = {"nargs": "+"}
SWITCH = {"action": "store_true"}
ARGUMENTS = {
    experiment: {
        "name": {"help": "a section of results/protocol.toml"},
        "--arms": SEVERAL,
        "--seeds": {"type": int, **SEVERAL},
        "--rates": {"type": float, **SEVERAL},
        "--again": {"help": "into build/again/, beside the stored numbers", **SWITCH},
    },
    bench: {"name": {"choices": ("sampling", "selection", "generation", "growth")}},
    full: {
        "names": {"nargs": "*", "help": "sections; default: all, the most valuable first"},
        "--assign": {"type": int, "metavar": "STUDENTS", "help": "only print one seed a student"},
        "--seeds": {"type": int, "default": (), **SEVERAL},
        "--rates": {"type": float, "default": (), **SEVERAL},
        "--minutes": {"type": float, "default": 600},
        "--out": {"default": "build/full", "help": "gets result files and checkpoints; on Colab on Drive"},
        "--jobs": {"type": int, "help": "seeds of the embedded model side by side; default: what fits"},
    },
    notebooks: {
        "task": {"choices": ("build", "run", "check", "handout", "zh")},
        "names": {"nargs": "*", "help": "their first characters, such as 07; default all"},
    },
    lab: {
        "name": {
            "nargs": "?",
            "default": "00",
            "help": "its first characters, such as 07, or zh/07 in Chinese; default 00",
        },
        "--port": {"type": int},
        "--no-browser": {"dest": "browser", "action": "store_false"},
    },
    audit: {
        "file": {
            "help": ".jsonl, .csv or .parquet with a row a sample: prompt, reward, kept; or a folder of such"
        },
        "--rule": {
            "metavar": ("NAME", "NUMBER"),
            "help": "that decided, such as: tilted 0.5 3, or 'above(0.5)'; derives kept where there is none",
            **SEVERAL,
        },
        "--columns": {
            "default": [],
            "metavar": "OURS=THEIRS",
            "help": "prompt=question reward=score.accuracy kept=chosen; in rsf.audit: lines for other tools",
            **SEVERAL,
        },
        "--figure": {"default": "audit.png", "help": "where the picture goes"},
    },
    figures: {},
    verify: {
        "files": {"nargs": "*", "help": "or folders of them; default: all of results/"},
        "--machine": {
            "action": "store_true",
            "help": "only say what to tell where an output did not reproduce",
        },
    },
}


if __name__ == "__main__":
    sys.exit(main())

"""python -m rsf: the commands behind `run.py`, one short function each."""

import argparse
import logging
import sys

BENCHMARKS = {
    "sampling": "rsf.bench",
    "selection": "rsf.bench_selection",
    "generation": "rsf.bench_generation",
}


def runner(name):
    """Return the function that makes one run of an experiment: (name, arm, seed) -> path."""
    from rsf.lab.tasks import arithmetic, word_problems
    from rsf.lab.tasks import imdb as experiments

    return {"arithmetic": arithmetic.run, "gsm8k": word_problems.gsm8k}.get(
        name.split("-")[0], experiments.imdb
    )


def experiment(name, arms=None, seeds=None):
    """Run what the protocol asks for and results/ lacks, the arms of a seed one after another."""
    from rsf.lab import records

    section, run = records.protocol(name), runner(name)
    for seed in seeds or section["seeds"]:
        for arm in arms or section["arms"]:
            target = records.path(name, arm, seed)
            if target.exists():
                records.validate(target)
                continue
            numbers = records.validate(run(name, arm, seed))["numbers"]
            shown = ", ".join(
                f"{key} {value:.7g}" for key, value in numbers.items() if isinstance(value, (int, float))
            )
            print(f"{name} {arm} {seed}: {shown}", flush=True)


def bench(name):
    """Run a benchmark of the protocol, alone on the machine, on one thread."""
    from importlib import import_module

    from rsf.lab import records

    print(
        f"made {getattr(import_module(BENCHMARKS[name]), name)().relative_to(records.ROOT)}; now: python -m rsf figures"
    )


def notebooks(task, names):
    """Build notebooks from their text, run the committed ones into build/, or check them without running."""
    from tqdm import tqdm

    from rsf.lab import notebooks

    if task == "check":
        found = [
            f"{name}: {problem}" for name in notebooks.names(names) for problem in notebooks.problems(name)
        ]
        print("\n".join(found) or "notebooks: nothing to mend")
        return bool(found)
    bar = tqdm(total=len(notebooks.names(names)), unit="notebook", file=sys.stderr)
    if task == "build":
        for name, seconds in notebooks.build(names):
            bar.update()
            bar.write(f"{name}: built in {seconds:.1f} s", file=sys.stdout)
        return bar.close()
    rows = []
    for row in notebooks.run(names):
        rows.append(row)
        bar.update()
        bar.write(f"{row['notebook']}: {row['verdict']}", file=sys.stdout)
    bar.close()
    width = max(len(row["notebook"]) for row in rows)
    print(f"\n{'notebook':{width}}  seconds    checks  verdict")
    for row in rows:
        print(f"{row['notebook']:{width}}  {row['seconds']:7.1f}  {row['checks']:>8}  {row['verdict']}")
    print("executed copies, figures and run.json are in build/")
    return any(row["verdict"] != "passed" for row in rows)


def figures():
    """Make the pictures and tables of README from results/."""
    from rsf.lab.report import overview as evidence

    for file in evidence.make():
        print(f"made {file}")


def validate(files):
    """Check result files against the protocol."""
    from rsf.lab import records

    for file in files:
        record = records.validate(file)
        print(f"{file}: valid, {record['experiment']} {record['arm']} seed {record['seed']}")


def audit(file, rule, columns, figure):
    """Say what rejection did to a data set: a page of text and a figure, from JSON lines, CSV or parquet."""
    from rsf import audit, rules

    if rule:
        name, *numbers = rule
        if name not in ("above", "tilted", "clipped", "easy", "constant"):
            raise SystemExit(
                f"--rule must be above, tilted, clipped, easy or constant with its numbers, got {name}"
            )
        rule = getattr(rules, name)(*map(float, numbers), **({"clip": True} if name == "tilted" else {}))
    report = audit.audit(audit.read(file, dict(pair.split("=") for pair in columns)), rule)
    print(report)
    report.figure().savefig(figure)
    print(f"figure: {figure}")


def main(words=None):
    """Parse the words of the command line and run the command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for chatty in ("httpx", "traitlets"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(prog="python -m rsf", description=__doc__.split(":")[1].strip())
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("experiment", help=experiment.__doc__)
    one.add_argument("name", help="a section of results/protocol.toml")
    one.add_argument("--arms", nargs="+")
    one.add_argument("--seeds", nargs="+", type=int)
    commands.add_parser("bench", help=bench.__doc__).add_argument("name", choices=BENCHMARKS)
    one = commands.add_parser("notebooks", help=notebooks.__doc__)
    one.add_argument("task", choices=("build", "run", "check"))
    one.add_argument("names", nargs="*", help="their first characters, such as 07; default all")
    one = commands.add_parser("audit", help=audit.__doc__)
    one.add_argument("file", help=".jsonl, .csv or .parquet with a row a sample: prompt, reward, kept")
    one.add_argument(
        "--rule", nargs="+", metavar=("NAME", "NUMBER"), help="the rule that decided, such as: tilted 0.5 3"
    )
    one.add_argument(
        "--columns", nargs="+", default=[], metavar="OURS=THEIRS", help="such as: prompt=question kept=chosen"
    )
    one.add_argument("--figure", default="audit.png", help="where the picture goes")
    commands.add_parser("figures", help=figures.__doc__)
    one = commands.add_parser("validate", help=validate.__doc__)
    one.add_argument("files", nargs="+")
    options = vars(parser.parse_args(words))
    return globals()[options.pop("command")](**options)


if __name__ == "__main__":
    sys.exit(main())

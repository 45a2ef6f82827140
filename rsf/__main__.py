"""python -m rsf: the commands behind `run.py`, one short function each."""

import argparse
import logging
import sys


def experiment(name, arms=None, seeds=None):
    """Run what the protocol asks for and results/ lacks, the arms of a seed one after another."""
    from rsf import experiments, records

    section = records.protocol(name)
    for seed in seeds or section["seeds"]:
        for arm in arms or section["arms"]:
            target = records.path(name, arm, seed)
            if target.exists():
                records.validate(target)
                continue
            record = records.validate(experiments.imdb(name, arm, seed))
            numbers = record["numbers"]
            print(
                f"{name} {arm} {seed}: accuracy {numbers['accuracy']:.4f}, acceptance rate {numbers['acceptance_rate']:.4f}, {numbers['forward_passes']:,} forward passes, {numbers['seconds']:.0f} s",
                flush=True,
            )


def validate(files):
    """Check result files against the protocol."""
    from rsf import records

    for file in files:
        record = records.validate(file)
        print(f"{file}: valid, {record['experiment']} {record['arm']} seed {record['seed']}")


def main(words=None):
    """Parse the words of the command line and run the command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(prog="python -m rsf", description=__doc__.split(":")[1].strip())
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("experiment", help=experiment.__doc__)
    one.add_argument("name", help="a section of results/protocol.toml")
    one.add_argument("--arms", nargs="+")
    one.add_argument("--seeds", nargs="+", type=int)
    one = commands.add_parser("validate", help=validate.__doc__)
    one.add_argument("files", nargs="+")
    options = vars(parser.parse_args(words))
    return globals()[options.pop("command")](**options)


if __name__ == "__main__":
    sys.exit(main())

"""What a number was made with: versions, processor, device, and the commit of this checkout."""

import os
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import numpy as np

import rsf

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = (ROOT / "results" / "protocol.toml").is_file() and (ROOT / "pyproject.toml").is_file()
# of the environment, that change sources or rounding
VARIABLES = ("RSF_", "OMP_", "MKL_", "ATEN_", "ONEDNN_", "OPENBLAS_", "NPY_")
PACKAGES = ("numpy", "scipy", "torch", "transformers", "datasets", "accelerate")


def machine(device: str) -> dict:
    """Return what a run ran on: versions, processor, threads, device, and how many ran side by side there."""
    installed = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    return {
        "rsf": rsf.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES if name in installed},
        "platform": f"{sys.platform} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "device": device,
        **({"beside": int(os.environ["RSF_BESIDE"])} if "RSF_BESIDE" in os.environ else {}),
    }


def situation() -> dict:
    """Return what to tell where an output did not reproduce: `machine`, what rounds, what is at hand."""
    import torch

    from rsf.lab import arms, data

    return {
        **machine(arms.device_name()),
        "commit": commit(),
        "instructions": {
            "torch": torch.backends.cpu.get_cpu_capability(),
            # NumPy leaves out what is empty
            "numpy": np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", []),
        },
        "threads": torch.get_num_threads(),
        "variables": {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)},
        "data": data.load("imdb").source,
        "free disk, GiB": round(shutil.disk_usage(ROOT).free / 2**30),
    }


def processor() -> str:
    """Return the processor's name, or the kind of machine where it has none to tell."""
    names = []
    with suppress(OSError):
        names = [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
    return [*names, platform.processor() or platform.machine()][0]


def commit() -> str:
    """Return the commit of the checkout, with "+" if the package differs from it; "unknown" outside one.

    A package that is installed inside somebody's own repository is not that repository's.
    """

    def git(*words):
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if (ROOT / "COMMIT").is_file():  # in an archive that tests/archive.py packed
            return (ROOT / "COMMIT").read_text(encoding="utf-8").strip()
        if not CHECKOUT or Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT:
            return "unknown"
        return git("rev-parse", "HEAD") + "+" * bool(
            git("status", "--porcelain", "--", "rsf", "results/protocol.toml")
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

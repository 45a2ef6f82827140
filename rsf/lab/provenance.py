"""What a number was made with: versions, processor, device, and the commit of this checkout."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import rsf

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = (ROOT / "results" / "protocol.toml").is_file() and (ROOT / "pyproject.toml").is_file()
PACKAGES = ("numpy", "scipy", "torch", "transformers", "datasets", "accelerate")


def machine(device: str) -> dict:
    """Return what a run ran on: versions, processor, threads, device."""
    installed = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    versions = {name: metadata.version(name) for name in PACKAGES if name in installed}
    return {
        "rsf": rsf.__version__,
        "python": platform.python_version(),
        **versions,
        "platform": f"{sys.platform} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "device": device,
    }


def processor() -> str:
    """Return the processor's name, or the kind of machine where it has none to tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """Return the commit of the checkout, with "+" if the package differs from it; "unknown" outside one.

    A package that is installed inside somebody's own repository is not that repository's.
    """

    def git(*words):
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    packed = ROOT / "COMMIT"  # in an archive that `rsf.lab.full` packed
    if packed.is_file():
        return packed.read_text(encoding="utf-8").strip()
    try:
        if not CHECKOUT or Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT:
            return "unknown"
        changed = git("status", "--porcelain", "--", "rsf", "results/protocol.toml")
        return git("rev-parse", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

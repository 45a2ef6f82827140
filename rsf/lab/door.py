"""JupyterLab on copies of the notebooks, so that reading them changes nothing in the checkout."""

import json
import os
import shutil
import subprocess
import sys

from rsf.accounts import write_json
from rsf.lab import notebooks
from rsf.lab.data import digest


def open_lab(word: str, *, port: int | None = None, browser: bool = True) -> int:
    """Open JupyterLab at a notebook, on copies in build/lab/, until it is stopped; return its exit code.

    A copy that its reader has changed is kept as it is; one that was only read follows the committed
    notebook.
    """
    wanted = notebooks.names([word])[0]
    folder = notebooks.BUILD / "lab"
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / ".copied.json"
    copied = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    for source in sorted(notebooks.NOTEBOOKS.glob("*.ipynb")):
        copy = folder / source.name
        if not copy.exists() or digest([copy]) == copied.get(source.name):
            shutil.copyfile(source, copy)
            copied[source.name] = digest([copy])
    write_json(record, copied)
    options = [
        f"--ServerApp.root_dir={folder}",
        *([f"--ServerApp.port={port}", "--ServerApp.port_retries=0"] if port else []),
        *([] if browser else ["--no-browser"]),
        # Jupyter refuses the root of a container otherwise
        *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
    ]
    command = [sys.executable, "-m", "jupyterlab", str(folder / f"{wanted}.ipynb"), *options]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    if os.name == "nt":
        return subprocess.run(command, env=environment).returncode
    return os.execve(command[0], command, environment)  # the server takes this process's place

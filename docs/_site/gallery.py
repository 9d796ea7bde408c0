"""The gallery: the programs of programs/ as pages, with what they print and the pictures that they make.

sphinx-gallery makes the pages and executes their code, which only defines functions. `hyperflow.main` at the end is
another one here: it runs the program as a user does, as a process of its own, with --local, in an empty directory. A
program that ends with an error makes the build fail.

Rejected: to let the program run inside Sphinx. Its functions would be those of a `__main__` that sphinx-gallery makes
up, and its event loop, signals and standard streams those of the build.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sphinx_gallery.scrapers import figure_rst

import hyperflow

ORDER = (
    "bisection",
    "adaptive_scan",
    "ring_of_ions",
    "monte_carlo",
    "nested_optimiser",
    "bootstrap",
    "bayesian",
    "live_scan",
    "parameter_sweep",
    "hyperparameters",
    "ensemble",
    "file_conversion",
)
"""The programs that are shown, in this order; what else is in programs/ is not."""

LONGEST = 120
"""How many seconds a program may run: many times what it needs on an idle machine."""

SETTINGS = {
    "examples_dirs": "../programs",
    "gallery_dirs": "gallery",
    "filename_pattern": "/",
    "ignore_pattern": rf"^(?!({'|'.join(ORDER)})\.py$)",
    "within_subsection_order": "_site.gallery.place",
    "reset_modules": ("_site.gallery.replace_main",),
    "image_scrapers": ("_site.gallery.pictures",),
    "notebook_extensions": set[str](),
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "thumbnail_size": (640, 400),
}

_CODE = ".. GENERATED FROM PYTHON SOURCE LINES"
"""With this a block of code begins on the pages that sphinx-gallery writes."""

_MADE = re.compile(
    r"^\.\. image-sg::.*?^\.\. rst-class:: sphx-glr-script-out\n.*?(?=^\.\. (?:rst-class::|_sphx_glr_download))",
    re.MULTILINE | re.DOTALL,
)
"""The pictures and the output of a block."""

_waiting: list[bytes] = []
"""The pictures that the newest run has made."""


def place(name: str | Path) -> int:
    """Return where a program stands."""
    return ORDER.index(Path(name).stem)


def replace_main(_settings: dict[str, Any], name: str) -> None:
    """Make hyperflow.main run this program as a process of its own."""
    program = Path(__file__).parents[2] / "programs" / Path(name).name

    def main(_fn: Callable[..., object], *_: object, **__: object) -> None:
        run(program)

    hyperflow.main = main


def run(program: Path) -> None:
    """Run a program with --local in an empty directory; print what it prints, and keep its pictures."""
    with tempfile.TemporaryDirectory() as directory:
        ended = subprocess.run(
            [sys.executable, program, "--local"],
            cwd=directory,
            env={**os.environ, "MPLBACKEND": "agg", "COLUMNS": "100"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=LONGEST,
        )
        if ended.returncode:
            raise RuntimeError(f"{program.name} ended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}")
        print(f"$ python {program.name} --local")
        print(ended.stdout.replace(f"{directory}/", ""))
        _waiting[:] = [path.read_bytes() for path in sorted(Path(directory).glob("hyperflow-runs/*/data/*.png"))]


def pictures(_block: object, variables: dict[str, Any], settings: dict[str, Any]) -> str:
    """Give the page the pictures of the run that its block has made."""
    paths = [variables["image_path_iterator"].next() for _ in _waiting]
    for path, picture in zip(paths, _waiting, strict=True):
        Path(path).write_bytes(picture)
    _waiting.clear()
    return figure_rst(paths, settings["src_dir"])


def made_first(page: str) -> str:
    """Return a page with the pictures and the output of its program before the code, where a reader looks for them."""
    begin, header, code = page.partition(_CODE)
    made = _MADE.search(code)
    if made is None:
        raise ValueError("sphinx-gallery writes its pages in another way than this version of ours knows")
    return f"{begin}{made[0]}{header}{code[: made.start()]}{code[made.end() :]}"


def _read(_app: object, page: str, text: list[str]) -> None:
    if page in {f"gallery/{name}" for name in ORDER}:
        text[0] = made_first(text[0])


def setup(app: Any) -> dict[str, bool]:
    """Tell Sphinx to change the pages of the gallery as it reads them."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}

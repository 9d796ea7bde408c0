"""Pages that are made from the code: the API, the command line, the configuration. They are not in git."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import attrs
from cyclopts.docs.markdown import generate_markdown_docs

import hyperflow
from hyperflow.cli.drafts import descriptions
from hyperflow.cli.main import command_line
from hyperflow.config import PREFIX, Settings

GROUPS = {
    "Flows": "Job Cluster job cluster Flow pure ask",
    "Evaluations": (
        "remote_eval remote_map remote_stream RemoteStream remote_eval_job tree_reduce speculate Speculation using "
        "put register_pickle_by_value unregister_pickle_by_value"
    ),
    "Side by side": "concurrently map_concurrently replicate_concurrently as_completed race",
    "Running": (
        "main run_job_local open_local_job run_job_slurm open_slurm_job open_cluster start start_local Executor "
        "ProgramInfo JobEnv ClusterEnv Environment"
    ),
    "Pools": "NodePool run_job_pool open_pool_job",
    "Options and resources": "Options JobOptions OptionChanges SbatchOptions Resubmit",
    "On a worker": ("worker_info WorkerInfo per_worker seed_sequence scratch time_left ending checkpoint_dir"),
    "Results that stay": "memoize KeyValMap open_results new_work_dir",
    "Files and external programs": "File Output run_command remote_command run_ranks CommandResult",
    "Locks and variables": "with_lock with_locks Semaphore ExtVar",
    "Failures and seeing": "Failed Statistics plot",
}
"""The public names but the errors, each in one group, in the order in which they are read."""


def api() -> str:
    """Return the page of all public names but the errors."""
    parts = ["# API", "", "`import hyperflow as hf`. Errors have [pages of their own](errors/index.md).", ""]
    for group, names in GROUPS.items():
        parts += [f"## {group}", "", "```{eval-rst}", ".. currentmodule:: hyperflow", ""]
        for name in names.split():
            if inspect.isclass(getattr(hyperflow, name)):
                parts += [f".. autoclass:: {name}", "   :members:", ""]
            else:
                parts += [f".. autofunction:: {name}", ""]
        parts += ["```", ""]
    return "\n".join(parts)


def configuration() -> str:
    """Return the page of the settings: a table of them, and what each one is for."""
    module = inspect.getdoc(importlib.import_module("hyperflow.config")) or ""
    head, example, rest = module.split("\n\n", 2)
    told = descriptions()
    parts = ["# Configuration", "", head, "", "```toml", inspect.cleandoc(example), "```", "", rest, ""]
    parts += ["| key | variable | default |", "|---|---|---|"]
    parts += [
        f"| [`{one.name}`](#{one.name}) | `{PREFIX}{one.name.upper()}` | `{one.default!r}` |"
        for one in attrs.fields(Settings)
    ]
    for one in attrs.fields(Settings):
        parts += ["", f"## {one.name}", "", told[one.name]]
    return "\n".join([*parts, ""])


def commands() -> str:
    """Return the page of the command line."""
    text = generate_markdown_docs(command_line(), recursive=True, generate_toc=False)
    return text.replace(" -m sphinx", "")  # cyclopts takes the command that runs now for a part of each usage line


def write(app: Any) -> None:
    """Write them, as far as they have changed."""
    place = Path(app.srcdir) / "reference"
    pages = {"api": api(), "commands": commands(), "configuration": configuration()}
    for name, text in pages.items():
        file = place / f"{name}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


def setup(app: Any) -> dict[str, bool]:
    """Write the pages before they are read."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}

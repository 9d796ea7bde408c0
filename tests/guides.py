"""The pages that people follow: what stands there to be written and typed, taken out of the text, and done.

    python -m tests.guides docs/guides/arrays.md          # one page, by hand: what differs from what it says
    python -m tests.guides docs/guides/arrays.md --show   # the output of each command, to be pasted

A page with code says below its title how it is typed: `<!-- typed: here -->` in an empty directory of this machine,
`cluster` on the login host of the test cluster, `kernel` into a notebook; `<!-- typed: here; needs: dask, mpirun -->`
where these are there. What its blocks mean:

- A block that begins with the comment `# NAME` (after `#!`, if it has one) is a file. Directories are made.
- Lines of `console` after `$ ` are commands of one shell, and what is below is their output; dots there stand for
  anything. One that ends with `# exit 3` fails so, and what it writes to stderr is part of what is shown.
- Python without a name is a cell of a notebook; an indented block right below is what it shows.
- `text` is only shown, and so is a block whose fence has a reason: `python not-run: it needs four GPUs`.
"""

import argparse
import ast
import asyncio
import contextlib
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import attrs
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.cluster.cluster import Cluster
from tests.cluster.cluster import cluster as held_cluster
from tests.helpers import block_until
from tests.imports import TOP
from tests.kernel import kernel

KINDS = ("here", "cluster", "kernel")

GENERATED = (
    "_build",
    "gallery",
    "reference/api.md",
    "reference/commands.md",
    "reference/configuration.md",
    "reference/errors",
)
"""What the site's build writes into docs/, from docstrings and programs that are tested elsewhere."""

LOOKS = (
    *("cat ", "ls", "tail ", "grep ", "squeue", "sinfo"),
    *(f"hyperflow {name}" for name in ("nodes", "node info", "pool info", "pool list", "list", "show", "why", "tasks")),
    *(f"hyperflow {name}" for name in ("runs", "logs", "explain", "results", "output", "var list", "locks")),
)  # fmt: skip
"""Commands that only look: what they are to show may take a while."""

_TYPED = re.compile(r"^<!-- typed: (\w+)(?:; needs: ([^>]+?))? -->$", re.MULTILINE)
_FILE = re.compile(r"(?:#!.*\n)?(?:#|//) ([\w./-]+)\n")
_EXIT = re.compile(r"\s+# exit (\d+)$")


@attrs.frozen
class Block:
    """A file with its name, a command with its output, a cell with what it shows, or what is only shown, with why."""

    kind: str
    text: str
    about: str
    exit: int = 0


@attrs.frozen
class Page:
    """A page: where it is, how it is typed, what that needs, and its blocks in their order."""

    path: Path
    kind: str
    needs: tuple[str, ...]
    blocks: tuple[Block, ...]
    complaints: tuple[str, ...]

    @property
    def name(self) -> str:
        """The page as it is named in a list."""
        return os.path.relpath(self.path, TOP).removeprefix("docs/")

    @property
    def typed(self) -> bool:
        """Whether it has anything to type."""
        return any(block.kind in {"command", "cell"} for block in self.blocks)


def pages(kind: str | None = None) -> list[Page]:
    """Return all pages, or those with something to type that are typed in this way."""
    docs = TOP / "docs"
    paths = [path for path in sorted(docs.rglob("*.md")) if not str(path.relative_to(docs)).startswith(GENERATED)]
    found = [read(path) for path in (TOP / "README.md", TOP / "CONTRIBUTING.md", *paths)]
    return [page for page in found if kind is None or (page.kind == kind and page.typed)]


@functools.cache
def read(path: Path) -> Page:
    """Read a page."""
    text = path.read_text()
    said = _TYPED.search(text)
    kind = said[1] if said else ""
    needs = tuple(part.strip() for part in (said[2] or "").split(",")) if said and said[2] else ()
    blocks: list[Block] = []
    complaints: list[str] = [] if kind in {"", *KINDS} else [f"it cannot be typed {kind}"]
    for where, block in _blocks(text):
        if block.kind == "complaint":
            complaints.append(f"{where}: {block.text}")
        else:
            blocks.append(block)
    page = Page(path, kind, needs, tuple(blocks), ())
    return attrs.evolve(page, complaints=(*complaints, *_misfits(page)))


def _blocks(text: str) -> Iterator[tuple[str, Block]]:
    tokens = MarkdownIt().parse(text)
    for token, following in pairwise([*tokens, Token("", "", 0)]):
        where = f"line {token.map[0] + 1}" if token.map else "somewhere"
        if token.type == "fence" and token.info.startswith("{"):
            yield from _blocks(token.content)  # a directive, with whatever it holds
        elif token.type == "fence":
            below = following.content.strip() if following.type == "code_block" else ""
            for block in _of_fence(token, below):
                yield where, block
        elif token.type == "code_block" and (re.search(r"^\$ ", token.content, re.MULTILINE) or _python(token.content)):
            yield where, Block("complaint", "an indented block with commands or Python: use a fence", "")


def _of_fence(fence: Token, below: str) -> Iterator[Block]:
    language, _, reason = fence.info.partition(" ")
    name = _FILE.match(fence.content)
    if reason.startswith("not-run:") and reason.removeprefix("not-run:").strip():
        yield Block("shown", fence.content, reason.removeprefix("not-run:").strip())
    elif reason or not language:
        yield Block("complaint", f"the fence says {fence.info!r}: a language, then nothing or `not-run: why`", "")
    elif language == "text":
        yield Block("shown", fence.content, "text")
    elif language == "console":
        yield from _commands(fence.content)
    elif name:
        yield Block("file", fence.content, name[1])
    elif language == "python":
        yield Block("cell", fence.content, below)
    else:
        yield Block("complaint", f"{language} that is no file, which begins with `# NAME`; or say `not-run: why`", "")


def _commands(text: str) -> Iterator[Block]:
    before, *parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    if before.strip() or not parts:
        yield Block("complaint", "a console begins with `$ ` and a command", "")
    for part in parts:
        whole = re.match(r"(?:.*\\\n)*.*", part)
        assert whole
        command, output = whole[0], part[whole.end() :].lstrip("\n")
        code = _EXIT.search(command)
        yield Block("command", _EXIT.sub("", command), output, int(code[1]) if code else 0)


def _python(text: str) -> bool:
    with contextlib.suppress(SyntaxError):
        return any(not isinstance(one, ast.Expr) or isinstance(one.value, ast.Call) for one in ast.parse(text).body)
    return False


def _misfits(page: Page) -> Iterator[str]:
    if any(block.kind != "shown" for block in page.blocks) and not page.kind:
        yield "it has code and does not say how it is typed: <!-- typed: here -->, cluster or kernel"
    for number, block in enumerate(page.blocks):
        begin = block.text.strip().partition("\n")[0]
        if block.kind == "cell" and page.kind != "kernel":
            yield f"Python that is no file, on a page that is not typed into a kernel: {begin}"
        elif block.kind == "command" and page.kind == "kernel":
            yield f"a command on a page that is typed into a kernel: {begin}"
        elif block.kind == "file" and not any(_uses(later, block.about) for later in page.blocks[number + 1 :]):
            yield f"a file that no command, file or cell below uses: {block.about}"


def _uses(block: Block, name: str) -> bool:
    return block.kind != "shown" and Path(name).stem in block.text


def missing(page: Page) -> list[str]:
    """Return what a page needs and this machine has not."""
    return [name for name in page.needs if not importlib.util.find_spec(name) and not shutil.which(name)]


def matches(output: str, expected: str) -> bool:
    """Whether it is the output, line by line; dots stand for anything, spaces at a line's end for nothing."""
    pattern = re.escape(_bare(expected)).replace(re.escape("..."), ".*")
    return re.fullmatch(pattern, _bare(output), re.DOTALL) is not None


def _bare(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def write(block: Block, directory: Path) -> None:
    """Write a file; one that says what runs it can be run."""
    path = directory / block.about
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text)
    if block.text.startswith("#!"):
        path.chmod(0o755)


class Shell:
    """One shell, into which the commands of a page are typed: what it remembers, it remembers for the next one."""

    def __init__(self, process: "subprocess.Popen[str]", directory: Path) -> None:
        self._process = process
        self._out, self._errors = directory / "out", directory / "errors"
        self.type("set -m")  # what runs in the background heeds Ctrl-C (`kill -INT $!`), as in a terminal

    def type(self, command: str, *, together: bool = False) -> tuple[str, str, int]:
        """Type a command; return what it wrote to stdout (and stderr, if together), to stderr, and its exit code."""
        assert self._process.stdin
        assert self._process.stdout
        errors = "&1" if together else f'"{self._errors}"'
        self._errors.write_text("")
        self._process.stdin.write(f'{{ {command}\n}} >"{self._out}" 2>{errors} </dev/null; echo $?\n')
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        assert said, f"the shell has ended: {command}"
        return self._out.read_text(errors="replace"), self._errors.read_text(errors="replace"), int(said)


@attrs.frozen
class Typed:
    """A command that was typed, what came of it, and whether that is what its page says."""

    block: Block
    output: str
    errors: str
    code: int

    @property
    def right(self) -> bool:
        """Whether it ended and wrote as its page says."""
        return self.code == self.block.exit and matches(self.output, self.block.about)

    def __str__(self) -> str:
        ended = f"exit code {self.code}, not {self.block.exit}\n" if self.code != self.block.exit else ""
        return f"$ {self.block.text}\n{ended}{self.output}{self.errors}\n-- but the page has:\n{self.block.about}"


def follow(page: Page, shell: Shell, place: Path, patience: float = 40) -> Iterator[Typed]:
    """Write each file of a page and type each command; those that only look may look again."""
    for block in page.blocks:
        if block.kind == "file":
            write(block, place)
        elif block.kind == "command":
            yield _type(block, shell, patience)


def _type(block: Block, shell: Shell, patience: float) -> Typed:
    tries: list[Typed] = []

    def as_told() -> bool:
        tries.append(Typed(block, *shell.type(block.text, together=block.exit != 0)))
        return tries[-1].right

    if not as_told() and block.text.startswith(LOOKS):
        with contextlib.suppress(TimeoutError):
            block_until(as_told, patience, block.text)
    return tries[-1]


@contextlib.contextmanager
def shell_here(directory: Path) -> Iterator[tuple[Shell, Path]]:
    """Hold a shell in an empty directory of this machine, with a home of its own."""
    for name in ("home", "page"):
        (directory / name).mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "HYPERFLOW_", "SLURM_"))}
    env |= _variables() | {"HOME": str(directory / "home")}
    env.pop("PYTHONWARNINGS", None)
    with (directory / "shell").open("w") as log, subprocess.Popen(
        ["bash"], cwd=directory / "page", env=env, stdin=_PIPE, stdout=_PIPE, stderr=log, text=True
    ) as process:  # fmt: skip
        yield Shell(process, directory), directory / "page"


@contextlib.contextmanager
def shell_on(cluster: Cluster) -> Iterator[tuple[Shell, Path]]:
    """Hold a shell in an empty directory of a cluster's login host."""
    said, place = cluster.home / "said", cluster.home / "page"
    for path in (said, place):
        path.mkdir()
    with (said / "shell").open("w") as log, cluster.login.start(
        ["bash"], cwd=place, env={**_variables(), "HYPERFLOW_PROGRESS": "0"}, stdin=_PIPE, stderr=log
    ) as process:  # fmt: skip
        yield Shell(process, said), place


_PIPE = subprocess.PIPE


def _variables() -> dict[str, str]:
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(TOP), "COLUMNS": "120"}


async def cells(page: Page, directory: Path) -> list[Typed]:
    """Write each file of a page, and execute each cell in a real kernel."""
    done: list[Typed] = []
    async with kernel(directory) as one:
        for block in page.blocks:
            if block.kind == "file":
                write(block, directory)
            elif block.kind == "cell":
                shown = await one.run(block.text)
                done.append(Typed(block, shown.out + shown.result, shown.trace, int(bool(shown.error))))
    return done


def by_hand(page: Page, directory: Path) -> Iterator[Typed]:
    """Do what a page says, whatever comes of it."""
    if page.kind == "kernel":
        yield from asyncio.run(cells(page, directory))
        return
    with contextlib.ExitStack() as stack:
        if page.kind == "cluster":
            shell, place = stack.enter_context(shell_on(stack.enter_context(held_cluster())))
        else:
            shell, place = stack.enter_context(shell_here(directory))
        yield from follow(page, shell, place, patience=10)


def main() -> int:
    """Follow one page; tell what differs, or show all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--show", action="store_true", help="show the output of each command")
    arguments = parser.parse_args()
    page = read(arguments.page.resolve())
    for complaint in (*page.complaints, *(f"not here: {name}" for name in missing(page))):
        print(complaint)
    wrong = 0
    with tempfile.TemporaryDirectory() as directory:
        for typed in by_hand(page, Path(directory)):
            wrong += not typed.right
            if arguments.show:
                print(f"$ {typed.block.text}\n{typed.output}", end="", flush=True)
                if not typed.right:
                    print(
                        f"^^^^ exit code {typed.code}; the page has another one, or:\n{typed.block.about}{typed.errors}"
                    )
            elif not typed.right:
                print(f"\n{typed}", flush=True)
    print(f"{wrong} differ", file=sys.stderr)
    return int(bool(wrong or page.complaints))


if __name__ == "__main__":
    sys.exit(main())

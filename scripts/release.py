"""`make release`: check what is to be released, build it, try it, and say what is left to do. It publishes nothing.

Everything is checked and built each time, also where something is not ready yet, so that it can be tried at any time:
what is not ready is said at the end, and then the exit code is 1.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
DIST = TOP / "dist"
SITE = TOP / "docs" / "_build" / "html"

STEPS = """\
Left to do by hand, from this commit:

    git tag -a v{version} -m {version}
    git push --follow-tags
    .venv/bin/python -m twine upload {files}

and the site: unpack dist/hyperflow-{version}-site.tar.gz beside the versions that are there. (twine is not among our
tools: `pip install twine`.)"""


def said(*command: str) -> str:
    """Return what a command prints."""
    return subprocess.run(command, cwd=TOP, check=True, capture_output=True, text=True).stdout


def version() -> str:
    """Return the version of this checkout."""
    found = re.search(r'^__version__ = "(.*)"$', (TOP / "hyperflow" / "_version.py").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def about_version(number: str, tags: str, status: str) -> Iterator[str]:
    """Say what stands against this number, and against this checkout."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", number):
        yield f"hyperflow/_version.py: {number} is no version of three numbers"
    if f"v{number}" in tags.split():
        yield f"the tag v{number} exists: choose the next number in hyperflow/_version.py"
    if status.strip():
        yield f"not committed: {', '.join(line[3:] for line in status.splitlines())}"


def about_texts(number: str, changelog: str, citation: str | None) -> Iterator[str]:
    """Say where the changelog and CITATION.cff do not tell of this version."""
    new, _, rest = changelog.partition("\n## [Unreleased]")[2].partition("\n## [")
    if new.strip():
        yield "CHANGELOG.md: there are lines under [Unreleased]"
    heading = re.match(rf"{re.escape(number)}\] - (\d\d\d\d-\d\d-\d\d)\n", rest)
    if heading is None:
        yield f"CHANGELOG.md: the heading below [Unreleased] is not ## [{number}] - year-month-day"
    if citation is None:
        yield "there is no CITATION.cff"
        return
    fields = dict(re.findall(r'^([\w-]+): *"?([^"\n]*)"?$', citation, re.MULTILINE))
    if fields.get("version") != number:
        yield f"CITATION.cff: version is {fields.get('version')}, not {number}"
    if heading is not None and fields.get("date-released") != heading[1]:
        yield f"CITATION.cff: date-released is {fields.get('date-released')}, the changelog says {heading[1]}"


def about_files(number: str) -> Iterator[str]:
    """Say which of the files that were built are missing, or of another version."""
    for name in (f"hyperflow-{number}-py3-none-any.whl", f"hyperflow-{number}.tar.gz"):
        if not (DIST / name).is_file():
            yield f"dist/{name} was not built"
    if f'"name": "{number}"' not in (SITE / "versions.js").read_text():
        yield f"the site's choice of versions does not have {number}"


def make(*words: str) -> None:
    """Run make; what fails ends the release."""
    print(f"\n== make {' '.join(words)}", flush=True)
    if subprocess.run(
        [os.environ.get("MAKE", "make"), "--no-print-directory", *words], cwd=TOP, check=False
    ).returncode:
        sys.exit(f"make {words[0]} failed: nothing was released")


def pack(number: str) -> None:
    """Put the site of this version into dist/: as an archive, and as one file."""
    with tarfile.open(DIST / f"hyperflow-{number}-site.tar.gz", "w:gz") as archive:
        archive.add(SITE / number, arcname=number)
        archive.add(SITE / "index.html", arcname="index.html")
        archive.add(SITE / "versions.js", arcname="versions.js")
    shutil.copy(SITE / number / "hyperflow.html", DIST / f"hyperflow-{number}.html")


def main() -> None:
    """Do it all, and say what is not ready."""
    number = version()
    objections = [*about_version(number, said("git", "tag"), said("git", "status", "--porcelain"))]
    citation = TOP / "CITATION.cff"
    told = citation.read_text() if citation.exists() else None
    objections += about_texts(number, (TOP / "CHANGELOG.md").read_text(), told)
    make("build")
    make("docs", f"SITE={number}")
    objections += about_files(number)
    pack(number)
    make("faces")
    print(f"\n== hyperflow {number}: dist/ has", *sorted(path.name for path in DIST.iterdir()), sep="\n    ")
    if objections:
        sys.exit("\n".join(["\nNot ready to be released:", *(f"    {one}" for one in objections)]))
    print()
    print(
        STEPS.format(version=number, files=f"dist/hyperflow-{number}-py3-none-any.whl dist/hyperflow-{number}.tar.gz")
    )


if __name__ == "__main__":
    main()

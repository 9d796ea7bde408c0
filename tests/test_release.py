"""`make release`: what is not ready to be released is said."""

from types import ModuleType

import pytest

from tests.helpers import module_at
from tests.imports import TOP

CITATION = 'cff-version: 1.2.0\ntitle: hyperflow\nversion: "1.2.3"\ndate-released: 2026-01-31\n'
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-01-31\n\n- new\n\n## [1.2.2] - 2026-01-01\n"


@pytest.fixture(name="release")
def _release() -> ModuleType:
    return module_at(TOP / "scripts" / "release.py")


def test_what_is_ready(release: ModuleType) -> None:
    """A clean checkout whose texts tell of the version is ready."""
    assert list(release.about_version("1.2.3", "v1.2.2\n", "")) == []
    assert list(release.about_texts("1.2.3", CHANGELOG, CITATION)) == []


def test_the_version(release: ModuleType) -> None:
    """The version of hyperflow is found where it stands."""
    import hyperflow

    assert release.version() == hyperflow.__version__


@pytest.mark.parametrize(
    ("version", "tags", "status", "objection"),
    [
        ("1.2.3", "v1.2.2\nv1.2.3\n", "", "the tag v1.2.3 exists"),
        ("1.2.3", "", " M README.md\n?? new\n", "not committed: README.md, new"),
        ("1.2.3.dev1", "", "", "no version of three numbers"),
    ],
)
def test_checkouts_that_are_not(release: ModuleType, version: str, tags: str, status: str, objection: str) -> None:
    """A number that was used, changes that are not committed and a number for developers are not ready."""
    (found,) = release.about_version(version, tags, status)

    assert objection in found


@pytest.mark.parametrize(
    ("changelog", "citation", "objection"),
    [
        (CHANGELOG.replace("## [1.2.3]", "- a line\n\n## [1.2.3]"), CITATION, "lines under [Unreleased]"),
        (CHANGELOG.replace("1.2.3", "1.3.0"), CITATION, "heading below [Unreleased] is not ## [1.2.3]"),
        (CHANGELOG.replace("2026-01-31", "soon"), CITATION, "heading below [Unreleased] is not ## [1.2.3]"),
        (CHANGELOG, None, "no CITATION.cff"),
        (CHANGELOG, CITATION.replace("1.2.3", "1.2.2"), "version is 1.2.2, not 1.2.3"),
        (CHANGELOG, CITATION.replace("01-31", "01-30"), "date-released is 2026-01-30, the changelog says 2026-01-31"),
    ],
)
def test_texts_that_are_not(release: ModuleType, changelog: str, citation: str | None, objection: str) -> None:
    """A changelog or a CITATION.cff that tells of another version, or of none, is not ready."""
    (found,) = release.about_texts("1.2.3", changelog, citation)

    assert objection in found

"""Where to read about something: the pages of the documentation, and what to type to see one.

The pages are Markdown files that come with the library, so that what an error says works where there is no network.
`hyperflow docs` shows them; a site that publishes them names the place as `docs_url` of the configuration.
"""

from __future__ import annotations

ERRORS = "reference/errors/"
"""Where the pages of errors are."""

ABOUT = "about this: "
"""So begins the line that leads to a page."""


def link(page: str, site: str = "") -> str:
    """Return what leads to a page, such as "guides/resources#memory": its address on a site, or a command.

    >>> link("reference/errors/WorkerDied")
    'hyperflow docs WorkerDied'
    >>> link("guides/resources#memory", "https://docs.example.org/hyperflow")
    'https://docs.example.org/hyperflow/guides/resources.html#memory'
    """
    if not site:
        return f"hyperflow docs {page.removeprefix(ERRORS)}"
    path, hash_, section = page.partition("#")
    return f"{site.rstrip('/')}/{path}.html{hash_}{section}"


def about_error(kind: type[BaseException], site: str = "") -> str:
    """Return the line that leads to the page of an error's class: its own, or that of the public class above it."""
    public = next((one for one in kind.__mro__ if one.__module__ == "hyperflow.errors"), None)
    return f"{ABOUT}{link(ERRORS + public.__name__, site)}" if public is not None else ""

"""Keys of locks and semaphores, as texts: they travel in messages and stand in files.

The key of a lock is canonical JSON. The key of a semaphore has its number of places in front, which no JSON has:
`4 of "licence"`. So whoever sees a key knows how many may hold it, and two counts for one name can be told.
"""

from __future__ import annotations

from collections.abc import Iterable

from hyperflow.errors import ConfigurationError

_OF = " of "


def of_semaphore(name: str, places: int) -> str:
    """Return the key of a semaphore; `name` is canonical JSON."""
    return f"{places}{_OF}{name}"


def split(key: str) -> tuple[str, int]:
    """Return what a lock or semaphore is known by, and how many may hold it; that of a semaphore is not its key."""
    number, of, name = key.partition(_OF)
    return (name + _OF, int(number)) if of and number.isdecimal() else (key, 1)


def shown(key: str) -> str:
    """Return a key as the user has written it."""
    name, places = split(key)
    return f"Semaphore({name.removesuffix(_OF)}, {places})" if name != key else key


def check_counts(keys: Iterable[str], known: dict[str, int]) -> None:
    """Raise if a semaphore has another count than is known of it."""
    for key in keys:
        name, places = split(key)
        if (other := known.get(name, places)) != places:
            raise ConfigurationError(two_counts(name, places, other))


def two_counts(name: str, places: int, other: int) -> str:
    """Say that one semaphore has two counts."""
    name = name.removesuffix(_OF)
    return (
        f"Semaphore({name}, {places}): Semaphore({name}, {other}) is in use; one name has one count in the whole "
        "program: write the count once, as a constant"
    )

"""The key of a task: what it is known by when the array goes on.

Guarantees: two tasks with the same key run the same words in the same directory, with the same variables of `env=`, and
read the same content. The variables of the login shell do not count: they differ from day to day, and nothing would
ever be found again. Nor does the content of the program: who has compiled it anew begins a new array.

Rejected: `database.keys.encode`, whose keys can be read and take ten times as long; here a million are made at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

_ENCODED = ("utf-8", "surrogatepass")


def key_of(
    argv: Sequence[str],
    cwd: str,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    inputs: Mapping[str, str] | None = None,
) -> str:
    """Return the key, 32 hex digits; 2 µs.

    Args:
        argv: The program and its arguments.
        cwd: Its directory.
        env: What is added to its variables.
        stdin: The digest of what it reads; "" for nothing.
        inputs: The digests of the files that it needs, by their names.
    """
    # No text here has a NUL. How many words and variables there are says where each begins.
    text = f"{len(argv)}\0{cwd}\0{stdin}\0" + "\0".join(argv)
    if env:
        text += f"\0{len(env)}\0" + "\0".join(f"{name}\0{env[name]}" for name in sorted(env))
    if inputs:
        text += "\0\0" + "\0".join(f"{name}\0{inputs[name]}" for name in sorted(inputs))
    return hashlib.blake2b(text.encode(*_ENCODED), digest_size=16).hexdigest()

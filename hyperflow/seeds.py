"""seed_sequence: a stream of random numbers for each evaluation, the same in every run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperflow import environment
from hyperflow.errors import ConfigurationError
from hyperflow.worker.worker import lock_client

if TYPE_CHECKING:
    from numpy.random import SeedSequence


def seed_sequence() -> SeedSequence:
    """Return numpy's SeedSequence for the evaluation that runs here: `rng = np.random.default_rng(hf.seed_sequence())`.

    Each evaluation has one of its own, made of the seed (`using(seed=...)`, 0 by default), the function's name, the
    arguments, and how many equal calls the program had submitted before. So two equal calls side by side draw different
    numbers, and the next run of the program draws all of them again. It does not depend on nodes, workers, timing or
    retries: another try of an evaluation draws the same numbers. An item of remote_map draws by its place in xs, and by
    how many remote_maps of that function there were before. Which of two equal calls is the first depends on the order
    in which flows submit them; where that may vary and matters, give the calls an argument that tells them apart.

    Every call of it in one evaluation returns the same; `.spawn(n)` makes several of it. In a job itself, where no
    function runs on a worker, each call returns another one: by the seed, by which call of a Slurm job that is, and by
    how many the job was given before. Arguments count as what they contain: plain data, collections, arrays, and
    objects of your classes. Values that the function captured do not count, nor does what is inside objects of other
    packages.

    Raises:
        ConfigurationError: There is no numpy.
        NotInFlow: Neither an evaluation nor a flow runs here.
        MisuseError: In a process or thread that an evaluation has started: take it before, and hand a child of it on.

    Cost: the first call in an evaluation asks the head, which takes 0.1 ms or more with large arguments. The head
    remembers about 100 bytes for each different call of a function that asks. Others cost nothing.
    """
    try:
        from numpy.random import SeedSequence  # noqa: PLC0415 (numpy is optional, and takes 0.1 s)
    except ImportError as error:
        raise ConfigurationError(f"seed_sequence() needs numpy ({error}); type: pip install numpy") from error
    client, inline = lock_client(), environment.inline_evaluation.get()
    item = environment.map_item.get()
    if item is not None:
        words = tuple(item)
    elif client is not None:
        words = client.stream()
    elif inline is not None:
        words = inline.draws()
    else:
        env = environment.current("seed_sequence()")
        words = env.evaluator.streams.next_of_job(env.options.seed)
    return SeedSequence(list(words))

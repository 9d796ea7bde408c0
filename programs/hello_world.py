"""The smallest program: one evaluation on every CPU, each telling where it ran."""

import cyclopts

import hyperflow as hf


def greet(number: int) -> str:
    """Run on a worker: an ordinary function, which may as well take hours."""
    worker = hf.worker_info()
    return f"Hello {number} from {worker.service_id}, CPU {worker.cpus[0]}"


@hf.job
async def greetings() -> list[str]:
    """Run on the head node: one greeting for each CPU, all of them at the same time."""
    cpus = (await hf.ask()).statistics().cpus
    return await hf.map_concurrently(lambda number: hf.remote_eval(greet, number), range(cpus))


def main(*, slurm: bool = False) -> None:
    """Say hello from every CPU of this machine, or with --slurm of the allocation that this runs in.

    Args:
        slurm: Use all nodes of the Slurm allocation that this runs in.
    """
    print(*hf.run_job_slurm(greetings()) if slurm else hf.run_job_local(greetings()), sep="\n")


cyclopts.run(main)

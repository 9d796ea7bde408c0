"""Sort the lines of a file with sort(1): parts of it on all CPUs of all nodes, then a merge of these.

What holds: the file goes to each node once, whatever the nodes see; the sorted parts stay on the nodes' own disks until
they are merged; the target appears whole, when its lines were found to be those of the source, in order.
"""

import hashlib
import os
from pathlib import Path

import attrs

import hyperflow as hf

# split -n l/3/8: the third of eight parts, none of which ends within a line.
SORT_PART = 'split -n "l/$1/$2" "$3" | LC_ALL=C sort > "$4"'
MERGE = 'target=$1; shift; LC_ALL=C sort -m -o "$target" "$@"'


@attrs.frozen
class Lines:
    """What can be compared of a file's lines."""

    count: int
    total: int  # of their digests: the same in any order
    in_order: bool


def look(file: hf.File) -> Lines:
    """Read a file, on a node."""
    count = total = 0
    in_order, last = True, b""
    with file.path().open("rb") as lines:
        for line in lines:
            text = line.removesuffix(b"\n")  # the last line may have no end; sort gives it one
            in_order = in_order and last <= text
            count, last = count + 1, text
            total += int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
    return Lines(count, total % 2**64, in_order)


@hf.job
async def sort_file(source: str, target: str, parts: int) -> int:
    """Sort a file; return how many lines it has."""
    whole = hf.File(source)

    def sort_part(number: int) -> hf.Flow[hf.File]:
        name = f"part-{number}"
        part = hf.Output(name, keep="node")
        done = hf.remote_command(["sh", "-c", SORT_PART, "-", f"{number}", f"{parts}", whole, part], check=True)
        return done.map(lambda result: result.files[name])

    sorted_parts = await hf.map_concurrently(sort_part, range(1, parts + 1))
    unchecked = hf.Output("merged", keep="node")
    done = await hf.remote_command(["sh", "-c", MERGE, "-", unchecked, *sorted_parts], check=True)
    merged = done.files["merged"]
    before, after = await hf.map_concurrently(lambda file: hf.remote_eval(look, file), [whole, merged])
    if not after.in_order or attrs.evolve(after, in_order=before.in_order) != before:
        raise ValueError(f"{source}: its lines are {before}, and those of what was sorted are {after}")
    await hf.remote_command(["cp", merged, hf.Output(target)], check=True)
    return after.count


@hf.cluster
async def sort(source: str, target: str, parts: int) -> str:
    """Sort a file in a Slurm job of two nodes."""
    with hf.using(sbatch=hf.SbatchOptions(nodes=2, ntasks_per_node=2, time="0:30:00")):
        count = await hf.remote_eval_job(sort_file(source, target, parts))
    return f"{count} lines in order: {target}"


def sort_lines(source: Path, target: Path, *, parts: int = 8) -> hf.Cluster[str]:
    """Sort the lines of a file, by their bytes.

    Args:
        source: The file.
        target: Where the sorted one comes; it may be the same.
        parts: In how many parts; one for each CPU is enough.
    """
    return sort(os.path.abspath(source), os.path.abspath(target), parts)


if __name__ == "__main__":
    hf.main(sort_lines)

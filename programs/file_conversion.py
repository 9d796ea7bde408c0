"""File conversion: external programs, with files that come and go
===============================================================

Many large files take room. Which program packs one smallest depends on what is in it: so each file is packed with
several, on the nodes, and the smallest result comes home. Another evaluation unpacks that, and compares.

Each command names what it reads and what it makes (`hf.File`, `hf.Output`). It runs in an empty directory on the disk
of a node, whether or not that node sees yours. What is only compared stays there (`keep="node"`). What comes home
comes whole or not at all, whatever is killed. The commands get names that hyperflow has made: yours may have spaces,
quotes and leading dashes.

In place of the three packers, put what converts your files: `ffmpeg`, `pandoc`, `h5repack`.
"""

import math
import random
from pathlib import Path

import attrs
from matplotlib.figure import Figure

import hyperflow as hf

PACKERS = {"gz": ["gzip", "-9nc"], "bz2": ["bzip2", "-9c"], "xz": ["xz", "-9cT1"]}
UNPACKERS = {"gz": ["gzip", "-dc"], "bz2": ["bzip2", "-dc"], "xz": ["xz", "-dc"]}


@attrs.frozen
class Packed:
    """What became of a file: how large it was, how large by each packer, and which one's result came home."""

    name: str
    before: int
    after: dict[str, int]
    best: str


# %%
# **One file.** `remote_command` describes an evaluation. Its result knows the files that the command has made.


def pack(file: hf.File, packer: str) -> hf.Job[hf.File]:
    """Pack a file; what comes out stays on the node."""
    packed = hf.remote_command(PACKERS[packer], stdin=file, stdout=hf.Output("packed", keep="node"), check=True)
    return packed.map(lambda done: done.files["packed"])


@hf.job
async def convert(source: Path, target: Path) -> Packed:
    """Pack a file in each way; check the smallest result, and bring it home."""
    file = hf.File(source)
    results = await hf.map_concurrently(lambda packer: pack(file, packer), PACKERS)
    sizes = {packer: result.size for packer, result in zip(PACKERS, results, strict=True)}
    smallest = min(results, key=lambda result: result.size)
    best = min(sizes, key=sizes.__getitem__)
    unpacked = hf.Output("unpacked", keep="node")
    done = await hf.remote_command(UNPACKERS[best], stdin=smallest, stdout=unpacked, check=True)
    if done.files["unpacked"].digest != file.digest:
        raise ArithmeticError(f"{source}: packed with {best} and unpacked again it is another file")
    await hf.remote_command(["cat"], stdin=smallest, stdout=hf.Output(f"{target}.{best}"), check=True)
    return Packed(source.name, file.size, sizes, best)


@hf.job
async def convert_all(pairs: list[tuple[Path, Path]]) -> list[Packed]:
    """Convert all files."""
    return await hf.map_concurrently(lambda pair: convert(*pair), pairs)


# %%
# **The Master.** Without names it makes files of its own to show what it does: tables, text, images and noise.


def samples(directory: Path) -> list[Path]:
    """Make files of several kinds."""
    directory.mkdir(exist_ok=True)
    chance = random.Random(1)
    walk, table = 0.0, ["time,position"]
    for step in range(20_000):
        walk += chance.gauss(0, 1)
        table.append(f"{step / 100},{walk:.4f}")
    words = ["".join(chance.choices("aeiounrst", k=chance.randint(2, 9))) for _ in range(600)]
    text = " ".join(words[min(int(chance.expovariate(0.01)), 599)] for _ in range(60_000))
    image = bytes(int(127 + 120 * math.sin(x / 40) * math.cos(y / 30)) for y in range(300) for x in range(400))
    kinds = {"walk.csv": "\n".join(table).encode(), "words.txt": text.encode(), "waves.raw": image}
    kinds |= {"masks.raw": bytes(255 * (value > 200) for value in image), "noise.bin": chance.randbytes(200_000)}
    for name, content in kinds.items():
        (directory / name).write_bytes(content)
    return [directory / name for name in kinds]


@hf.cluster
async def file_conversion(*files: Path, to: Path | None = None) -> None:
    """Pack each file with several programs, and keep the smallest result; the files stay as they are.

    Args:
        files: What to pack; without any, some files that are made to show it.
        to: The directory for what comes out; by default `data/packed` in the run's directory.
    """
    data = (await hf.ask()).program.data_dir
    sources = [file.absolute() for file in files] or samples(data / "samples")
    if len({source.name for source in sources}) < len(sources):
        raise hf.ConfigurationError("two of the files have the same name: what comes of them would, too")
    directory = (to or data / "packed").absolute()
    with hf.using(sbatch=hf.SbatchOptions(nodes=2, ntasks_per_node=1, time="10:00")):
        packed = await hf.remote_eval_job(convert_all([(source, directory / source.name) for source in sources]))
    draw(packed, data / "file_conversion.png")
    for one in packed:
        result = directory / f"{one.name}.{one.best}"
        print(f"{one.before:9} bytes  {one.after[one.best]:9} as {one.best:3}  {one.name}")
        if result.stat().st_size != one.after[one.best]:
            raise ArithmeticError(f"{result} is not what was checked")
    print(f"all are right when they are unpacked again\npicture   {data / 'file_conversion.png'}")


def draw(packed: list[Packed], path: Path) -> None:
    """Draw what each packer leaves of each file."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for place, (packer, colour) in enumerate(zip(PACKERS, ("#9ecae1", "#4292c6", "#08519c"), strict=True)):
        rows = [row + 0.25 * (place - 1) for row in range(len(packed))]
        axes.barh(rows, [100 * one.after[packer] / one.before for one in packed], 0.23, color=colour, label=packer)
        chosen = [
            (100 * one.after[packer] / one.before, row)
            for one, row in zip(packed, rows, strict=True)
            if one.best == packer
        ]
        for share, row in chosen:
            axes.text(share + 1, row, f"{share:.1f} %, kept", va="center", fontsize="small")
    axes.set_yticks(range(len(packed)), [f"{one.name}\n{one.before / 1000:.0f} kB" for one in packed])
    axes.set(xlabel="what is left of the file (%)", xlim=(0, 118))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.25), frameon=False, title="packed with")
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    hf.main(file_conversion)

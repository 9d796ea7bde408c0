"""What `hyperflow init` writes: a configuration and a batch script, from what was found. Pure.

Each line that counts has a comment above it, which says what was found and why this value. In the configuration,
`#key = value` is a key that is switched off; with the `#` removed it is valid. In the script that is `##SBATCH`.
Texts of the machine (names, paths, what a command said) stand in comments in one line, without control characters.
"""

from __future__ import annotations

import inspect
import re
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from hyperflow.cli.machine import Machine, Slurm
from hyperflow.config import FIELDS, Settings
from hyperflow.errors import ConfigurationError
from hyperflow.saying import as_written, in_one_line
from hyperflow.slurm.partitions import Kind, Partition
from hyperflow.slurm.script import seconds_of

HOUR = 3600.0
MOST_CPUS = 4
"""CPUs on each node that are asked for unless somebody says how many: enough to see it work, soon granted."""
MOST_NAMED = 12
"""So many other partitions are named in a script."""
WIDTH = 100

EXAMPLES = {
    "prologue": '"module load python"',
    "exclude_nodes": '"node[7-8]"',
    "known_hosts": '"/etc/ssh/ssh_known_hosts"',
    "ssh_port": "22",
    "end_margin": "60",
    "scratch": '"/tmp"',
    "cache": '"20G"',
    "docs_url": '"https://docs.example.org/hyperflow"',
}
"""What stands beside a key whose default is nothing that one could write."""


@attrs.frozen
class Choice:
    """What the script asks for; `seconds` None is the limit of the partition."""

    partition: Partition
    nodes: int
    cpus: int
    seconds: float


def choose(slurm: Slurm, partition: str, nodes: int | None, cpus: int | None, time: str) -> Choice | None:
    """Choose what to ask for; what was typed counts. None where nothing is known of partitions.

    Raises:
        ConfigurationError: What was typed is not to be had.
    """
    seconds = seconds_of(time) if time else None
    if time and not seconds:
        raise ConfigurationError(f"--time {time}: a time of Slurm's is needed, such as 30 (minutes) or 2:00:00")
    for option, number in (("--nodes", nodes), ("--cpus", cpus)):
        if number is not None and number < 1:
            raise ConfigurationError(f"{option} {number}: at least 1 is needed")
    if not slurm.partitions:
        return None
    one = _named(slurm.partitions, partition) if partition else _usual(slurm.partitions)
    most_nodes = min(one.nodes, one.max_nodes or one.nodes)
    most_cpus = max((kind.cpus for kind in one.kinds), default=1)
    for what, wanted, most in (("--nodes", nodes, most_nodes), ("--cpus", cpus, most_cpus)):
        if wanted is not None and wanted > most:
            raise ConfigurationError(f"{what} {wanted}: partition {one.name} gives a job {most} at most")
    if seconds and one.limit is not None and seconds > one.limit:
        raise ConfigurationError(f"--time {time}: partition {one.name} has a limit of {as_time(one.limit)}")
    return Choice(
        one,
        nodes or max(one.min_nodes, min(2, most_nodes), 1),
        cpus or (one.cpus if one.exclusive else min(one.cpus, MOST_CPUS)),
        seconds or min(HOUR, HOUR if one.limit is None else one.limit),
    )


def _named(partitions: Sequence[Partition], name: str) -> Partition:
    found = next((one for one in partitions if one.name == name), None)
    if found is None:
        names = ", ".join(one.name for one in partitions)
        raise ConfigurationError(f"--partition {name}: there is no such partition; there are {names}")
    return found


def _usual(partitions: Sequence[Partition]) -> Partition:
    """Return the default one; where the site has none, the first that works and that all may use."""
    ranks = [(not one.default, not one.up or one.nodes == one.broken, one.accounts is not None) for one in partitions]
    return partitions[ranks.index(min(ranks))]


def as_time(seconds: float) -> str:
    """Return a time as Slurm writes it: 1-12:00:00, 2:00:00."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}-{hour:02}:{minute:02}:{second:02}" if days else f"{hour}:{minute:02}:{second:02}"


def nodes_in_words(kind: Kind) -> str:
    """Return `8 nodes of 64 CPUs, 250G and 4 GPUs (a100)`."""
    parts = [f"{kind.cpus} CPU{'s' * (kind.cpus != 1)}"]
    if kind.memory > 1:
        parts.append(as_written(kind.memory << 20))
    if kind.gpus:
        parts.append(f"{kind.gpus} GPU{'s' * (kind.gpus != 1)}" + (f" ({kind.gpu_type})" if kind.gpu_type else ""))
    return f"{kind.nodes} node{'s' * (kind.nodes != 1)} of {_listed(parts)}"


def partition_in_words(one: Partition) -> str:
    """Return what a partition is, in a line."""
    kinds = "; ".join(map(nodes_in_words, one.kinds)) or "no nodes"
    parts = [kinds, "no time limit" if one.limit is None else f"at most {as_time(one.limit)}"]
    parts += ["whole nodes only"] * one.exclusive
    parts += [f"{one.broken} of them down"] * bool(one.broken)
    parts += [] if one.up else ["closed"]
    parts += [f"for the accounts {', '.join(one.accounts[:5])}"] if one.accounts else []
    return f"{one.name}{' (the default)' if one.default else ''}: {', '.join(parts)}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def configuration(machine: Machine) -> str:
    """Return the text of a configuration."""
    found = _settings(machine)
    lines = _comment(
        f"The configuration of hyperflow, written by `hyperflow init` on {machine.host}. Each key that there is stands "
        "below. `#key = value` is switched off: the value is the default, or an example. A variable such as "
        "HYPERFLOW_TRANSPORT=ssh counts more than this file, and an argument in the program more than both. "
        "`hyperflow doctor` checks it."
    )
    told = descriptions()
    for name in FIELDS:
        value, why = found.get(name, ("", ""))
        lines += ["", *_comment(f"{name}: {told.get(name, '')}".removesuffix(": "))]
        lines += _comment(f"Here: {why}") if why else []
        lines.append(f"{name} = {value}" if value else f"#{name} = {_example(name, machine)}")
    return "\n".join([*lines, ""])


def descriptions() -> dict[str, str]:
    """Return what the docstring of Settings says of each key, in one line each; {} where Python has dropped it."""
    text = (inspect.getdoc(Settings) or "").partition("Args:\n")[2]
    entries = re.findall(r"^    (\w+): (.*\n(?:        .*\n?)*)", text + "\n", re.MULTILINE)
    return {name: " ".join(said.split()) for name, said in entries}


def _example(name: str, machine: Machine) -> str:
    if name == "scratch" and machine.slurm.tmp:
        return f'"{machine.slurm.tmp}"'
    if name == "prologue" and machine.modules:
        return _toml(f"module load {shlex.join(machine.modules)}")
    if name in EXAMPLES:
        return EXAMPLES[name]
    default = FIELDS[name].default
    return _toml(default) if isinstance(default, str) else f"{default}"


def _toml(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _settings(machine: Machine) -> dict[str, tuple[str, str]]:
    """Return, for keys of which something was found: the value that they get ("" for none), and why."""
    return {name: (value, why) for name, value, why in _found(machine) if why}


def _found(machine: Machine) -> Iterator[tuple[str, str, str]]:
    ssh, srun, python = (machine.check(name) for name in ("ssh", "srun", "Python"))
    node = machine.node
    if not machine.slurm.version:
        yield "transport", "", "there is no Slurm; this counts where nodes or hosts are to be reached."
    elif ssh is None:
        yield "transport", "", "no node was tried; an allocation finds out what works (`salloc hyperflow doctor`)."
    elif ssh.status == "ok":
        yield "transport", "", f"ssh reaches {node}: {ssh.detail.partition(', echo in')[0]}. So the default does."
    elif srun is not None and srun.status == "ok":
        yield "transport", '"srun"', f"ssh does not reach {node} ({ssh.detail}), but a step of srun does."
    else:
        why = (
            f"ssh does not reach {node} from here ({ssh.detail}). Many sites let in only who has a job there, so the "
            "default stays: it tries both in the allocation. The batch script shows which one works; if none but "
            'srun does, write "srun" and save the tries.'
        )
        yield "transport", "", why
    if ssh is not None and ssh.data.get("cause") == "host key unknown":
        yield "host_keys", "", f'the key of {node} is in no known_hosts file. "accept-new" takes it.'
    if python is not None and python.status == "ok" and python.node == node:
        yield "prologue", "", f"a launcher started on {node} without one."
    elif machine.modules:
        loaded = ", ".join(machine.modules)
        yield "prologue", "", f"loaded here: {loaded}. Switch it on if Python does not start on the nodes without."
    if machine.slurm.tmp not in {"", "/tmp"}:
        yield "scratch", "", f"Slurm's TmpFS, the nodes' own room for temporary files, is {machine.slurm.tmp}."


def script(machine: Machine, choice: Choice, program: Path | None, config: Path | None) -> str:
    """Return the text of a batch script.

    Args:
        program: What it runs; None for the doctor.
        config: The configuration, if it is not where hyperflow looks by itself.
    """
    head = (
        f"Written by `hyperflow init` on {machine.host} ({machine.slurm.version}). Submit it with sbatch. "
        "A line that begins with ##SBATCH is switched off; remove one # to switch it on."
    )
    lines = ["#!/bin/bash", *_comment(head), ""]
    for comment, line in (*_asked(machine.slurm, choice), *_usual_lines()):
        lines += [*_comment(comment), line]
    lines += ["", *_comment(_about_directory(machine)), 'cd -- "$SLURM_SUBMIT_DIR" || exit 1', ""]
    if config is not None:
        lines += [*_comment("Where the configuration is."), f"export HYPERFLOW_CONFIG={shlex.quote(str(config))}", ""]
    if machine.modules:
        lines += _comment("Modules that were loaded when this was written. sbatch hands the environment of your")
        lines += _comment("shell on, with what is loaded there; switch this on to be independent of it.")
        lines += [f"#module load {shlex.join(machine.modules)}", ""]
    return "\n".join([*lines, *_what_runs(machine, program), ""])


def _asked(slurm: Slurm, choice: Choice) -> Iterator[tuple[str, str]]:
    """Yield the comments and lines that depend on the partition."""
    one = choice.partition
    others = [partition_in_words(other) for other in slurm.partitions if other != one]
    more = [f"and {len(others) - MOST_NAMED} more, see sinfo"] if len(others) > MOST_NAMED else []
    beside = f" Others: {'; '.join([*others[:MOST_NAMED], *more])}." if others else " There is no other."
    yield f"Partition {partition_in_words(one)}.{beside}", f"#SBATCH --partition={one.name}"
    yield _about_nodes(choice), f"#SBATCH --nodes={choice.nodes}"
    yield _about_cpus(choice), f"#SBATCH --ntasks-per-node={choice.cpus}"
    limit = "has no time limit" if one.limit is None else f"allows {as_time(one.limit)}"
    time = (
        f"The time limit, as H:MM:SS; the partition {limit}. A short one starts sooner. A minute before the end "
        "hyperflow starts nothing more."
    )
    yield time, f"#SBATCH --time={as_time(choice.seconds)}"
    if each := _memory(one):
        given = f"Without it a job gets {one.memory_per_cpu}M for each." if one.memory_per_cpu else ""
        yield (
            f"Memory for each CPU; {each}M is a CPU's share of a node. {given}".strip(),
            f"##SBATCH --mem-per-cpu={each}M",
        )
    if kinds := one.with_gpus:
        all_have = len(kinds) == len(one.kinds)
        kind = kinds[0].gpu_type if len({kind.gpu_type for kind in kinds}) == 1 else ""
        why = "All nodes of this partition have them, and a job that asks for none may be refused." if all_have else ""
        line = f"SBATCH --gres=gpu:{kind}:1" if kind else "SBATCH --gres=gpu:1"
        yield f"GPUs on each node. {why}".strip(), f"#{line}" if all_have else f"##{line}"
    yield _account(slurm, one)
    if one.qos:
        yield f"The partition takes these QOS: {', '.join(one.qos[:10])}.", f"##SBATCH --qos={one.qos[0]}"


def _about_nodes(choice: Choice) -> str:
    one = choice.partition
    limits = f"a job may have {one.min_nodes} to {one.max_nodes}" if one.max_nodes else f"the partition has {one.nodes}"
    return f"How many nodes; {limits}. hyperflow uses all CPUs that Slurm grants on each."


def _about_cpus(choice: Choice) -> str:
    one = choice.partition
    if one.exclusive:
        return "CPUs on each node. A job gets whole nodes in this partition, and pays for them: take all CPUs."
    return f"CPUs on each node; {one.cpus} is all that each node has. --exclusive in its place takes whole nodes."


def _memory(one: Partition) -> int:
    """Return the megabytes of a node for each of its CPUs, in the poorest kind of nodes; 0 where Slurm counts none."""
    return min((kind.memory // max(kind.cpus, 1) for kind in one.kinds), default=0)


def _account(slurm: Slurm, one: Partition) -> tuple[str, str]:
    mine = [name for name in slurm.accounts if one.accounts is None or name in one.accounts]
    if one.accounts is not None:
        whose = f"of these you have {', '.join(mine[:10])}" if mine else "Slurm does not tell which are yours"
        why = f"The partition is for the accounts {', '.join(one.accounts[:10])}; {whose}."
        return why, f"#SBATCH --account={mine[0]}" if mine else f"##SBATCH --account={one.accounts[0]}"
    asked = "Slurm wants one that it knows" if slurm.accounting else "Slurm does not ask for one here"
    yours = f"; yours: {', '.join(mine[:10])}" if mine else ""
    return f"Whom the time is charged to. {asked}{yours}.", f"##SBATCH --account={mine[0] if mine else 'PROJECT'}"


def _usual_lines() -> Iterator[tuple[str, str]]:
    yield "What the job is called in squeue, and the file that its output goes to.", "#SBATCH --job-name=hyperflow"
    yield "%x is the job's name, %j its number.", "#SBATCH --output=%x-%j.out"
    again = (
        "With run_job_slurm(job, requeue=True) the job goes back into the queue when its time is up, and goes on from "
        "its results database; then with the same output file."
    )
    yield again, "##SBATCH --requeue --open-mode=append"


def _about_directory(machine: Machine) -> str:
    kind = machine.directory_type or "an unknown type of file system"
    seen = {True: f"{machine.node} sees it", False: "NOT shared, as far as was seen", None: "mostly shared, not tried"}
    return (
        f"The job runs where sbatch is typed, and keeps its run there. All nodes have to see that directory. This was "
        f"written in {in_one_line(str(machine.directory))}, on {kind}: {seen[machine.shared]}."
    )


def _what_runs(machine: Machine, program: Path | None) -> list[str]:
    python = shlex.quote(str(machine.python))
    kind = machine.python_type or "an unknown type of file system"
    lines = _comment(f"The Python with which hyperflow is installed, on {kind}. All nodes have to see it, too.")
    if program is not None:
        lines += _comment("exec: Slurm's signals are for Python. Arguments of the program go to the end of the line.")
        return [*lines, f"exec {python} {shlex.quote(str(program))}"]
    lines += _comment("The doctor checks the allocation. When all is well, put your program in its place:")
    return [*lines, f"#exec {python} program.py", f"exec {python} -m hyperflow doctor"]


def _comment(text: str) -> list[str]:
    wrapped = textwrap.wrap(in_one_line(text), WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return [f"# {line}" for line in wrapped]

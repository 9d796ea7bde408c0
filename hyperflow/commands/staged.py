"""A task with files: run as any other, in a sandbox on a node; its outputs come to its directory."""

from __future__ import annotations

from hyperflow import staged as command
from hyperflow.commands.running import TaskDone, run_task
from hyperflow.commands.task_spec import TaskSpec
from hyperflow.flow import Job, Native
from hyperflow.remote import remote_eval
from hyperflow.staging.naming import Plan
from hyperflow.staging.parts import Ticket
from hyperflow.staging.sandbox import Sandbox


def staged(task: TaskSpec) -> Job[TaskDone]:
    """Run a task in a sandbox; awaiting it returns and raises what `run_task` does, and what `remote_command` does."""
    return Job(Native("task", _staged, (task,)))


def plan_of(task: TaskSpec) -> Plan:
    """Return a task as it runs in its sandbox."""
    return command.plan_of(
        task.command,
        inputs=dict(task.inputs),
        outputs=task.outputs,
        on_failure=task.on_failure,
        stdin=task.stdin or None,
        base=task.cwd or None,
    )


async def _staged(task: TaskSpec) -> TaskDone:
    env = dict(task.env)

    def submit(plan: Plan, ticket: Ticket) -> Job[tuple[TaskDone, str]]:
        return remote_eval(run_in_sandbox, plan, ticket, task.number, env)

    done, _ = await command.carry_out(plan_of(task), submit)
    return done


def run_in_sandbox(plan: Plan, ticket: Ticket, number: int, env: dict[str, str]) -> tuple[TaskDone, str]:
    """Run a task on a worker."""
    with Sandbox.opened(plan, ticket) as box:
        done = run_task(number, box.words, str(box.home), box.variables | env, box.stdin)
    return done, box.run

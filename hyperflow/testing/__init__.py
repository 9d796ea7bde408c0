"""For tests of programs that use hyperflow: an environment that evaluates in this process.

Instead of `hyperflow.run_job_local(my_job())`, a test says:

    async with open_inline_job(cpus=2):
        assert await my_job() == 42
"""

from hyperflow.testing.inline import open_inline_job as open_inline_job

__all__ = ("open_inline_job",)

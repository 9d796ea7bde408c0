"""For tests of programs that use hyperflow: an environment that evaluates in this process."""

from hyperflow.testing.inline import open_inline_job as open_inline_job

__all__ = ("open_inline_job",)

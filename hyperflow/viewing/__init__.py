"""What people look at: a run's history as columns, views of it, the page and the report.

A page reads, the run does not know: all is made from files and the control API, when somebody asks.
"""

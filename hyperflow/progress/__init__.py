"""What a run shows of itself while it runs: how its evaluations stand, by function or name.

`tally` counts, `view` makes texts of the counts, `terminal` and `notebook` show them, `display` chooses and keeps time.
"""

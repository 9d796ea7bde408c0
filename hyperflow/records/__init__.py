"""What each run says of itself, while it runs and afterwards, and the index of the user's runs.

`record` is what it says, `recording` keeps it up to date, `index` knows the runs that were given no place.
"""

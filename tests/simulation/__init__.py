"""Random schedules of everything that can happen to runs, in virtual time, each one a number.

`python -m tests.simulation --n 10000` plays many, `--seed 4711` plays that one and tells what happened in it.
"""

"""Faults of every kind against a running service, and a comparison of histories at the end.

`python -m luxx.testing.chaos --storage both --seconds 60 --seed 1` starts its own processes;
`--url https://… --seconds 60` does to a deployment what any client may do. The exit status is 0 where
every promise was kept.
"""

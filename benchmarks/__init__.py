"""Measurements of the service as it is really started, beside what it can't beat and beside its peers: `make bench`.

`targets` are the servers, real processes on the first core; `peers` holds the code and configuration of those that are
not ours. The fake model server (`upstream`) and the load client (`client`) share one event loop on the last core: a
stream's both ends are then read from one clock, told what to do by a plain call, and never wait for each other's turn
at the core. `scenarios` say what is done and measured, `stage` is what they do it with, `rounds` takes the targets in
turns, `report` and `pictures` show what came out.
"""

"""Several nodes behind one service: see `cluster`."""

from odysseus.cluster.cluster import Cluster

__all__ = ["Cluster"]

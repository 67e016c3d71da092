"""Several nodes behind one service: see `cluster`."""

from odysseus.cluster.cluster import Cluster, Figures

__all__ = ["Cluster", "Figures"]

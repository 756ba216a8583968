"""Who holds which samples: a file of ``conf/partition`` names a function of these."""

from apps.lab.partitions.split import choose_malicious, dirichlet, iid, shards, unequal

__all__ = ["choose_malicious", "dirichlet", "iid", "shards", "unequal"]

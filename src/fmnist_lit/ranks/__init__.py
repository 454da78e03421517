"""Several processes, called ranks, that train one model together: each takes a share of every batch."""

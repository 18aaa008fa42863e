"""Many machines: the problems of a run, shared out over workers on a Ray cluster (docs/scale-out.md)."""

"""Where shards run: worker processes on this machine (Slurm and Ray go through datatrove's executors)."""

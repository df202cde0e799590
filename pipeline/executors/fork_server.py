"""Loaded by the fork server alone, before it forks a worker: what every worker needs is imported and
looked up once.

The fork server must die at once when the run is killed, and its workers with it: left to itself it takes seconds, in
which they go on writing into a folder that the next command may already be working in.
"""

import os

import pipeline.executors.shard_executor
import pipeline.executors.shard_run  # noqa: F401
from pipeline.executors.die_with_parent import die_with_parent
from pipeline.executors.freed_memory import return_freed_memory
from pipeline.numerics import code_commit, numerics_class

FORK_SERVER_PID = os.getpid()
die_with_parent()
return_freed_memory()  # workers are forks of this process: the setting is theirs too
numerics_class()  # and so is what was looked up: a worker asks neither git nor the package metadata
code_commit()

"""Jobs: graphs of tasks that go on after whoever started them has left, as local processes or on a SLURM cluster.

Nothing is imported here: a task's process must be able to clean its import path before anything else of ours is loaded.
"""

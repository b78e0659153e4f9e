"""Jobs: work that goes on after whoever started it has left."""

from spd_tools.launch.jobs import Job, JobState, job_status, list_jobs, start_harvest

__all__ = ["Job", "JobState", "job_status", "list_jobs", "start_harvest"]

"""Step 4, hand out jobs: workers ask Highwater what to work on, so a dead job starves nobody."""


def next_job(highwater, empty=()):
    """A job that runs and has work left, or None. `empty`: what this worker's queue had nothing of just now."""
    exclude = [str(job_id) for job_id in empty]
    answer = highwater.call_until_answered("ReportService", "NextJob", exclude_job_ids=exclude)
    return int(answer["job"]["job_id"]) if "job" in answer else None

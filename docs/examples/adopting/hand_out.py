"""Step 4, distribute work: workers ask Highwater for a job, so a dead job cannot block the others."""

import backend


def next_job(highwater, empty=()):
    """Returns a running job that has work left, or None. `empty`: jobs whose queues this worker just found empty."""
    exclude = [str(job_id) for job_id in empty]
    while True:
        request = {"labels": backend.LABELS, "exclude_job_ids": exclude}
        response = highwater.call_until_answered("ReportService", "NextJob", **request)
        if "job" not in response:
            return None
        job_id = backend.own_id(response["job"]["job_id"])
        if job_id is not None:
            return job_id
        exclude.append(response["job"]["job_id"])

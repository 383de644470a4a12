"""Step 3, follow ends: one process writes the end of each job to the backend's own table, once. It replaces the old
writers.

From this step on, a handler saves its result, reports until the report is acknowledged, and no longer counts.
"""

import backend

STATES = {"SUCCEEDED": "finished", "FAILED": "failed", "CANCELLED": "cancelled", "REVOKED": "failed"}


def handle_result(database, highwater, message):
    """Acknowledge the message (by returning) once the answer is OK.

    `call_until_answered` reports again while the gateway or a store is unavailable. All other errors are permanent:
    they leave this function as exceptions, so the message is not acknowledged, and the queue's limit of deliveries
    moves it to its dead-letter queue. So does a result that Highwater will never count."""
    job_id, task, failed = message["job_id"], message["task"], message.get("failed", False)
    backend.save_result(database, job_id, task, message["value"])
    outcome = "OUTCOME_FAILED" if failed else "OUTCOME_SUCCEEDED"
    result = {"task": str(task), "stage": backend.STAGES[0], "outcome": outcome}
    response = highwater.call_until_answered("ReportService", "ReportResults", job_id=str(job_id), results=[result])
    if "rejected_count" in response:
        raise ValueError(f"job {job_id} does not have this task or stage: {result}")


def follow_ends(database, highwater):
    """Processes all jobs that ended since the last call, in order. The cursor is stored, so a restart misses no end.
    Repeating an end changes nothing."""
    row = database.execute("SELECT value FROM cursor WHERE name = 'ended_after'").fetchone()
    request = {"order": "JOB_ORDER_EARLIEST_END_FIRST", "labels": backend.LABELS}
    if row:
        request["ended_after"] = row[0]
    last_end_time, token = row and row[0], ""
    while True:
        page = highwater.call_until_answered("JobService", "ListJobs", **request, page_token=token)
        for job in page.get("jobs", []):
            record_end(database, job)
            last_end_time = job["end_time"]
        for job_id in page.get("unreadable_job_ids", []):
            backend.log.error("the row of job %s is invalid; read its end with GetJob once it is corrected", job_id)
        token = page.get("next_page_token", "")
        if not token:
            break
    if last_end_time:
        database.execute("INSERT OR REPLACE INTO cursor VALUES ('ended_after', ?)", (last_end_time,))


def record_end(database, job):
    """Writes an end. The update is guarded, so an end is written once and an ended job never runs again."""
    job_id = backend.own_id(job["job_id"])
    if job_id is None:
        return
    state = STATES[job["state"].removeprefix("JOB_STATE_")]
    database.execute("UPDATE job SET state = ? WHERE id = ? AND state = 'running'", (state, job_id))

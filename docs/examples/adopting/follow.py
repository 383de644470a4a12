"""Step 3, follow endings: one process writes each job's end into the backend's own table, once. The old writers go.

From here on a handler saves its result, reports until it is acknowledged, and counts nothing itself.
"""

import backend

OURS = {"SUCCEEDED": "finished", "FAILED": "failed", "CANCELLED": "cancelled", "REVOKED": "failed"}


def handle_result(database, highwater, message):
    """An answer that is OK is the moment to acknowledge the message; every other one means: again."""
    job_id, task, failed = message["job_id"], message["task"], message.get("failed", False)
    backend.save_result(database, job_id, task, message["value"])
    outcome = "OUTCOME_FAILED" if failed else "OUTCOME_SUCCEEDED"
    result = {"task": str(task), "stage": backend.STAGES[0], "outcome": outcome}
    highwater.call_until_answered("ReportService", "ReportResults", job_id=str(job_id), results=[result])


def follow_endings(database, highwater):
    """Every ending since the last call, in order. The cursor is kept, so a restart misses none and repeats harmlessly."""
    row = database.execute("SELECT value FROM cursor WHERE name = 'ended_after'").fetchone()
    request = {"order": "JOB_ORDER_EARLIEST_END_FIRST"}
    if row:
        request["ended_after"] = row[0]
    last, token = row and row[0], ""
    while True:
        page = highwater.call_until_answered("JobService", "ListJobs", **request, page_token=token)
        for job in page.get("jobs", []):
            end(database, job)
            last = job["end_time"]
        token = page.get("next_page_token", "")
        if not token:
            break
    if last:
        database.execute("INSERT OR REPLACE INTO cursor VALUES ('ended_after', ?)", (last,))


def end(database, job):
    """Guarded, so that an end is written once and nothing comes back to life."""
    state = OURS[job["state"].removeprefix("JOB_STATE_")]
    database.execute("UPDATE job SET state = ? WHERE id = ? AND state = 'running'", (state, int(job["job_id"])))

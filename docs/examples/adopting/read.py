"""Step 2, read: pages and dashboards ask Highwater. Jobs that are older than step 1 are read from the old column."""

import json

import grpc


def read_progress(database, highwater, job_id):
    """Returns what a page shows: percent, state, and whether the percentage may be too low."""
    try:
        progress = highwater.call("ProgressService", "GetProgress", job_id=str(job_id))["progress"]
    except grpc.RpcError as error:
        if error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE):
            raise
        return old_progress(database, job_id)
    # An absent percentage is unknown, not zero: show a dash, or the last known value.
    return {
        "percent": progress.get("percent"),
        "state": progress["state"].removeprefix("JOB_STATE_"),
        "at_least": progress.get("lower_bound", False),
    }


def old_progress(database, job_id):
    row = database.execute("SELECT progress, task_count, state FROM job WHERE id = ?", (job_id,)).fetchone()
    counts = json.loads(row[0])
    done = counts["done"] + counts["failed"]
    return {"percent": min(100, done * 100 // max(1, row[1])), "state": row[2].upper(), "at_least": False}

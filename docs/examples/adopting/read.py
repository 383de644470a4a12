"""Step 2, read: pages and dashboards ask Highwater. Jobs from before it was there are read from the old column."""

import json

import grpc


def progress(database, highwater, job_id):
    """What a page shows: percent and state, and whether the number is all there is."""
    try:
        read = highwater.call("ProgressService", "GetProgress", job_id=str(job_id))["progress"]
    except grpc.RpcError as error:
        if error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE):
            raise
        return old_progress(database, job_id)
    # Absent is "not known", never zero: show a dash, or what was shown last.
    return {
        "percent": read.get("percent"),
        "state": read["state"].removeprefix("JOB_STATE_"),
        "at_least": read.get("lower_bound", False),
    }


def old_progress(database, job_id):
    row = database.execute("SELECT progress, task_count, state FROM job WHERE id = ?", (job_id,)).fetchone()
    counted = json.loads(row[0])
    done = counted["done"] + counted["failed"]
    return {"percent": min(100, done * 100 // max(1, row[1])), "state": row[2].upper(), "at_least": False}

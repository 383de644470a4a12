"""Step 1, shadow: report to Highwater in addition to the old code. Nothing depends on the reports yet, and a failed
call is only logged."""

import logging

import grpc

import backend

log = logging.getLogger("highwater")


def create_job(database, highwater, task_count):
    """Creates a job in the database and in Highwater. Both use the same ID, so no mapping is needed."""
    job_id = backend.create_job(database, task_count)
    definition = {"job_id": str(job_id), "stages": backend.STAGES, "task_count": str(task_count), "start": True}
    definition["labels"] = backend.LABELS
    log_errors(highwater.call, "JobService", "CreateJob", **definition)
    return job_id


def handle_result(database, highwater, message):
    """Saves, then reports, and acknowledges the message last (by returning)."""
    job_id, task, failed = message["job_id"], message["task"], message.get("failed", False)
    backend.save_result(database, job_id, task, message["value"])
    outcome = "OUTCOME_FAILED" if failed else "OUTCOME_SUCCEEDED"
    result = {"task": str(task), "stage": backend.STAGES[0], "outcome": outcome}
    response = log_errors(highwater.call, "ReportService", "ReportResults", job_id=str(job_id), results=[result])
    if response and "rejected_count" in response:
        log.warning("job %s does not have this task or stage: %s", job_id, result)
    backend.count_result(database, job_id, failed)


def log_errors(call, *args, **request):
    try:
        return call(*args, **request)
    except grpc.RpcError as error:
        log.warning("%s: %s", error.code().name, error.details())
        return None

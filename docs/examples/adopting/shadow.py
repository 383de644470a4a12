"""Step 1, shadow: report beside the old code. Nothing reads it yet, and nothing that goes wrong here stops anybody."""

import logging

import grpc

import backend

log = logging.getLogger("highwater")


def create_job(database, highwater, task_count):
    """The same job in both. The integer id is the job's id in Highwater too, so nothing has to be mapped."""
    job_id = backend.create_job(database, task_count)
    definition = {"job_id": str(job_id), "stages": backend.STAGES, "task_count": str(task_count), "start": True}
    quietly(highwater.call, "JobService", "CreateJob", **definition)
    return job_id


def handle_result(database, highwater, message):
    """In this order: save, report, and only then acknowledge the message (by returning)."""
    job_id, task, failed = message["job_id"], message["task"], message.get("failed", False)
    backend.save_result(database, job_id, task, message["value"])
    outcome = "OUTCOME_FAILED" if failed else "OUTCOME_SUCCEEDED"
    result = {"task": str(task), "stage": backend.STAGES[0], "outcome": outcome}
    quietly(highwater.call, "ReportService", "ReportResults", job_id=str(job_id), results=[result])
    backend.count_result(database, job_id, failed)


def quietly(call, *args, **request):
    try:
        return call(*args, **request)
    except grpc.RpcError as error:
        log.warning("%s: %s", error.code().name, error.details())
        return None

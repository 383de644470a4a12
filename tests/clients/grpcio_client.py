"""A third-party client on gRPC's C core that discovers Highwater by reflection (v1alpha), given only an address.

Drives a job from its creation to its snapshot, makes every call that lists or watches jobs and tasks, and checks errors
with their details. Exits with 0 if every check passed, otherwise with a traceback.

Usage: grpcio_client.py HOST:PORT
"""

import sys
import time
import uuid

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

SECONDS = 10


class Client:
    """Calls any method by name; messages are dictionaries."""

    def __init__(self, channel):
        self.channel = channel
        self.reflection = ProtoReflectionDescriptorDatabase(channel)
        self.pool = DescriptorPool(self.reflection)

    def call(self, service, method, **request):
        return self.invoke(self.channel.unary_unary, service, method, request)

    def invoke(self, kind, service, method, request):
        descriptor = self.pool.FindServiceByName(f"highwater.v1.{service}").methods_by_name[method]
        invoke = kind(
            f"/highwater.v1.{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(descriptor.output_type).FromString,
        )
        return invoke(GetMessageClass(descriptor.input_type)(**request), timeout=SECONDS)

    def refused(self, code, service, method, **request):
        """Expects the call to fail with this code; returns the details of the error by type name."""
        try:
            answer = self.call(service, method, **request)
        except grpc.RpcError as error:
            assert error.code() == code, f"{method}: {error.code()}, not {code}: {error.details()}"
            return self.details(error)
        raise AssertionError(f"{method} returned {answer}, not {code}")

    def details(self, error):
        details = {}
        for packed in rpc_status.from_call(error).details:
            # The types of the details are discovered by reflection too.
            message = GetMessageClass(self.pool.FindMessageTypeByName(packed.TypeName()))()
            assert packed.Unpack(message)
            details[message.DESCRIPTOR.name] = message
        assert details["ErrorInfo"].domain == "highwater"
        return details

    def name(self, enum, number):
        return self.pool.FindEnumTypeByName(f"highwater.v1.{enum}").values_by_number[number].name

    def dispositions(self, answer):
        return [self.name("Disposition", entry).removeprefix("DISPOSITION_") for entry in answer.dispositions]

    def progress(self, job):
        return self.call("ProgressService", "GetProgress", job_id=job).progress

    def watch(self, job):
        return self.invoke(self.channel.unary_stream, "ProgressService", "WatchProgress", {"job_id": job})

    def report(self, job, results):
        return self.call("ReportService", "ReportResults", job_id=job, results=results)


def result(task, stage, code=None, message=""):
    if code is None:
        return {"task": task, "stage": stage, "outcome": 1}
    return {"task": task, "stage": stage, "outcome": 2, "error": {"code": code, "message": message}}


def ready(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ["", "highwater.v1.JobService"]:
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, (service, answer)


def services(client):
    found = set(client.reflection.get_services())
    wanted = {f"highwater.v1.{name}Service" for name in ["Job", "Report", "Progress"]}
    assert wanted <= found, found


def create(client, job):
    definition = {"job_id": job, "stages": ["fetch", "parse"], "task_count": 10, "labels": {"of": job}}
    created = client.call("JobService", "CreateJob", start=True, **definition).job
    assert client.name("JobState", created.state) == "JOB_STATE_RUNNING", created
    assert created.failure_threshold == 0.5, created
    assert client.call("JobService", "CreateJob", **definition).job == created, "a repeated create returns the same job"

    details = client.refused(
        grpc.StatusCode.ALREADY_EXISTS, "JobService", "CreateJob", **{**definition, "task_count": 11}
    )
    assert details["ErrorInfo"].reason == "JOB_EXISTS", details
    assert details["ResourceInfo"].resource_name == job, details

    fresh = client.progress(job)
    assert client.name("Source", fresh.source) == "SOURCE_LIVE", fresh
    assert fresh.HasField("succeeded_task_count") and fresh.succeeded_task_count == 0, "zero is present, not omitted"
    assert fresh.percent == 0 and fresh.pending_task_count == 10, fresh


def report(client, job):
    first = [result(task, "fetch") for task in range(9)] + [result(9, "fetch", "TIMEOUT", "no answer in 5 s")]
    answer = client.report(job, first)
    assert client.dispositions(answer) == ["APPLIED"] * 10 and not answer.stop, answer
    results = [result(0, "parse"), result(0, "fetch"), result(10, "fetch"), result(2**40, "parse"), result(1, "nowhere")]
    answer = client.report(job, results)
    expected = ["APPLIED", "DUPLICATE", "UNKNOWN_TASK", "UNKNOWN_TASK", "UNKNOWN_STAGE"]
    assert client.dispositions(answer) == expected and answer.rejected_count == 3, answer

    live = client.progress(job)
    fetch, parse = live.stages
    assert (fetch.pending_count, fetch.succeeded_count, fetch.failed_count, fetch.skipped_count) == (0, 9, 1, 0), live
    assert (parse.pending_count, parse.succeeded_count, parse.failed_count, parse.skipped_count) == (8, 1, 0, 1), live
    assert live.percent == 60, live
    assert [(entry.code, entry.count) for entry in live.error_counts] == [("TIMEOUT", 1)], live


def errors(client, job):
    before = client.progress(job)
    details = client.refused(
        grpc.StatusCode.INVALID_ARGUMENT,
        "ReportService",
        "ReportResults",
        job_id=job,
        results=[result(1, "parse"), {"stage": "parse", "outcome": 1}],
    )
    assert details["BadRequest"].field_violations[0].field == "results[1].task", details
    assert client.progress(job).revision == before.revision, "a rejected batch marks nothing"

    details = client.refused(grpc.StatusCode.INVALID_ARGUMENT, "JobService", "CreateJob", job_id="-", task_count=-1)
    fields = {violation.field for violation in details["BadRequest"].field_violations}
    assert fields >= {"job_id", "task_count", "stages"}, details

    details = client.refused(grpc.StatusCode.NOT_FOUND, "ProgressService", "GetProgress", job_id="no-such-job")
    assert details["ErrorInfo"].reason == "JOB_NOT_FOUND", details
    assert details["ResourceInfo"].resource_name == "no-such-job", details

    waiting = client.call("JobService", "CreateJob", stages=["only"], task_count=1).job.job_id
    details = client.refused(
        grpc.StatusCode.FAILED_PRECONDITION, "ReportService", "ReportResults", job_id=waiting, results=[result(0, "only")]
    )
    assert details["PreconditionFailure"].violations[0].type == "JOB_NOT_STARTED", details
    cancelled = client.call("JobService", "CancelJob", job_id=waiting, reason="only to see").job
    assert cancelled.cancel_reason == "only to see", cancelled


def paged(client, method, **request):
    """Yields the pages of a list from the first to the last."""
    token = ""
    while True:
        page = client.call("JobService", method, page_token=token, **request)
        yield page
        token = page.next_page_token
        if not token:
            return


def tasks(client, job, stage, status):
    """The indexes of the tasks with this status at the stage, read in pages of one range."""
    pages = list(paged(client, "ListTasks", job_id=job, stage=stage, status=status, page_size=1))
    assert all(len(page.ranges) <= 1 for page in pages), pages
    assert all(client.name("Source", page.source) == "SOURCE_LIVE" and not page.lower_bound for page in pages), pages
    return [task for page in pages for entry in page.ranges for task in range(entry.first, entry.last + 1)]


def lists(client, job):
    """Lists while the job runs: of ten tasks one failed at the first stage, and one succeeded at the second."""
    outstanding, failed, succeeded, skipped = 1, 2, 3, 4
    assert tasks(client, job, "fetch", failed) == [9]
    assert tasks(client, job, "parse", outstanding) == list(range(1, 9))
    assert tasks(client, job, "parse", succeeded) == [0], "a range that begins at 0"
    assert tasks(client, job, "parse", skipped) == [9]

    live = client.progress(job)
    batch = client.call("ProgressService", "BatchGetProgress", job_ids=[job, "no-such-job"]).results
    assert [entry.job_id for entry in batch] == [job, "no-such-job"], batch
    assert batch[0].WhichOneof("result") == "progress" and batch[0].progress.stages == live.stages, batch
    assert batch[1].WhichOneof("result") == "error", batch
    assert batch[1].error.code == grpc.StatusCode.NOT_FOUND.value[0], batch
    assert client.name("ErrorReason", batch[1].error.reason) == "ERROR_REASON_JOB_NOT_FOUND", batch

    details = client.refused(grpc.StatusCode.INVALID_ARGUMENT, "JobService", "ListTasks", job_id=job, page_size=-1)
    assert {entry.field for entry in details["BadRequest"].field_violations} == {"status"}, details


    try:
        raise AssertionError(f"an unknown job can be watched: {next(client.watch('no-such-job'))}")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
        assert client.details(error)["ErrorInfo"].reason == "JOB_NOT_FOUND", error


def named(client, job):
    """A job with named tasks: lists return the names, and progress is 0 % before tasks are added."""
    name = f"{job}-named"
    client.call("JobService", "CreateJob", job_id=name, stages=["only"], named_tasks=True, labels={"of": job})
    assert client.progress(name).percent == 0, "a job without tasks is at 0 %"
    added = client.call("JobService", "AddTasks", job_id=name, task_names=["north", "south", "east"])
    assert (list(added.tasks), added.added_count, added.task_count) == ([0, 1, 2], 3, 3), added
    client.call("JobService", "StartJob", job_id=name)
    client.report(name, [{"task_name": "south", "stage": "only", "outcome": 1}])
    pages = list(paged(client, "ListTasks", job_id=name, status=1, page_size=1))
    assert [list(page.task_names) for page in pages if page.task_names] == [["north"], ["east"]], pages
    client.call("JobService", "CancelJob", job_id=name)
    return name


def endings(client, job, named):
    """Lists both jobs once each, by creation and by end, page by page; then the jobs that ended after the first."""
    labels = {"of": job}
    pages = list(paged(client, "ListJobs", labels=labels, with_progress=True, page_size=1))
    assert [entry.job_id for page in pages for entry in page.jobs] == [named, job], pages
    listed = [(entry.job_id, entry.progress.percent) for page in pages for entry in page.progress]
    assert listed == [(named, 33), (job, 100)], listed

    earliest_end_first = 2
    ended, deadline = [], time.monotonic() + SECONDS
    while len(ended) < 2:  # an end is listed once no earlier end can still commit
        assert time.monotonic() < deadline, ended
        pages = paged(client, "ListJobs", labels=labels, order=earliest_end_first, page_size=1)
        ended = [entry for page in pages for entry in page.jobs]
    assert [entry.job_id for entry in ended] == [named, job], ended
    later = client.call(
        "JobService", "ListJobs", labels=labels, order=earliest_end_first, ended_after=ended[0].end_time
    )
    assert [entry.job_id for entry in later.jobs] == [job], later
    running = 2
    assert not client.call("JobService", "ListJobs", labels=labels, states=[running]).jobs, "no job is running"


def ended(client, job):
    """Waits until the end is committed, which follows the last report without a further call; returns the progress."""
    deadline = time.monotonic() + SECONDS
    while client.name("JobState", (progress := client.progress(job)).state) == "JOB_STATE_RUNNING":
        assert progress.percent == 100 and time.monotonic() < deadline, progress
    return progress


def end(client, job):
    states = client.watch(job)
    first = next(states).progress
    assert first.percent == 60 and len(first.stages) == 2, first
    answer = client.report(job, [result(task, "parse") for task in range(1, 9)])
    assert client.dispositions(answer) == ["APPLIED"] * 8, answer
    final = ended(client, job)
    assert [state.progress for state in states][-1] == final, "the last state is the end"
    assert states.code() == grpc.StatusCode.OK, states.code()
    assert client.name("JobState", final.state) == "JOB_STATE_SUCCEEDED", final
    assert client.name("Source", final.source) == "SOURCE_SNAPSHOT", final
    assert (final.succeeded_task_count, final.failed_task_count, final.pending_task_count) == (9, 1, 0), final
    assert final.percent == 100 and final.fraction == 1.0, final
    sample = final.error_samples[0]
    assert (sample.task, sample.stage, sample.code, sample.message) == (9, "fetch", "TIMEOUT", "no answer in 5 s"), final
    assert client.call("JobService", "GetJob", job_id=job).job.HasField("end_time")

    answer = client.report(job, [result(0, "parse")])
    assert client.dispositions(answer) == ["SUPERSEDED"] and answer.stop, answer
    assert client.name("JobState", answer.job_state) == "JOB_STATE_SUCCEEDED", answer

    details = client.refused(grpc.StatusCode.FAILED_PRECONDITION, "JobService", "CancelJob", job_id=job)
    assert details["ErrorInfo"].metadata["state"] == "SUCCEEDED", details
    assert details["PreconditionFailure"].violations[0].subject == job, details


def main(address):
    job = f"python-{uuid.uuid4()}"
    with grpc.insecure_channel(address) as channel:
        client = Client(channel)
        ready(channel)
        services(client)
        create(client, job)
        report(client, job)
        errors(client, job)
        lists(client, job)
        named_job = named(client, job)
        end(client, job)
        endings(client, job, named_job)
    print(f"{job}: all checks passed")


if __name__ == "__main__":
    main(sys.argv[1])

"""A worker: asks Highwater which job to work on, takes tasks of it from a queue that delivers at least once, reports
what became of them, and acknowledges their messages only then.

The queue is a Redis stream a job, `tasks:JOB`, with one message a task: {"task": INDEX}. Whatever a worker that died
had taken is delivered again to another after IDLE_MS. Highwater counts a task once, however often it is reported.

Usage: worker.py HIGHWATER QUEUE [NAME], such as: worker.py 127.0.0.1:7070 redis://127.0.0.1:6380 worker-1
"""

import os
import signal
import socket
import sys
import time

import redis

from highwater import Highwater

GROUP = "workers"
AT_ONCE = 10
IDLE_MS = 1000
STAGE = "render"
# What the work itself takes here; yours is the real thing.
SECONDS_A_TASK = float(os.environ.get("SECONDS_A_TASK", "0.01"))

stopping = False


def stop(*_):
    global stopping
    stopping = True


def work(task):
    """The work itself. Returns the outcome to report."""
    time.sleep(SECONDS_A_TASK)
    return {"task": str(task), "stage": STAGE, "outcome": "OUTCOME_SUCCEEDED"}


class Queue:
    """At least once: a message stays pending until it is acknowledged, whoever took it."""

    def __init__(self, url, name):
        self.redis = redis.Redis.from_url(url, decode_responses=True)
        self.name = name

    def take(self, job):
        try:
            return self.taken(f"tasks:{job}")
        except redis.ResponseError as error:
            # Another worker was told that the job has ended, and has dropped the queue under us.
            if str(error).startswith(("NOGROUP", "UNBLOCKED")):
                return []
            raise

    def taken(self, stream):
        try:
            self.redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        # First what somebody took, and did not acknowledge in time.
        _, messages, _ = self.redis.xautoclaim(stream, GROUP, self.name, IDLE_MS, count=AT_ONCE)
        if not messages:
            found = self.redis.xreadgroup(GROUP, self.name, {stream: ">"}, count=AT_ONCE, block=100)
            # A list of streams with their messages, or a dictionary of them, by the version of the client.
            found = list(found.items()) if isinstance(found, dict) else found
            messages = found[0][1] if found else []
            messages = messages[0] if messages and isinstance(messages[0], list) else messages
        return [(message, int(fields["task"])) for message, fields in messages]

    def acknowledge(self, job, messages):
        self.redis.xack(f"tasks:{job}", GROUP, *messages)

    def drop(self, job):
        """The job has ended: nobody needs what is left."""
        self.redis.delete(f"tasks:{job}")


def work_on(job, highwater, queue):
    """Until the queue has nothing of this job for us, or the job has ended."""
    while not stopping:
        taken = queue.take(job)
        if not taken:
            return
        results = [work(task) for _, task in taken]
        # Save what the work produced before this line. Then report, and acknowledge last: who dies in between has its
        # messages delivered again, and reported again, which changes nothing.
        answer = highwater.call_until_answered("ReportService", "ReportResults", job_id=job, results=results)
        if answer.get("stop"):
            queue.drop(job)
            return
        queue.acknowledge(job, [message for message, _ in taken])


def main(highwater, queue, name=None):
    signal.signal(signal.SIGTERM, stop)
    highwater = Highwater(highwater)
    queue = Queue(queue, name or f"{socket.gethostname()}-{os.getpid()}")
    print(f"{queue.name} is at work", flush=True)
    empty = set()
    while not stopping:
        answer = highwater.call_until_answered("ReportService", "NextJob", exclude_job_ids=sorted(empty)[:1000])
        if "job" not in answer:
            # Nothing left but what was empty a moment ago: wait, then look at that again too.
            time.sleep(float(answer["retry_after"].removesuffix("s")))
            empty.clear()
            continue
        job = answer["job"]["job_id"]
        work_on(job, highwater, queue)
        empty.add(job)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])

"""A worker: gets a job from Highwater, takes tasks of that job from a queue that delivers at least once, reports their
results, and then acknowledges their messages.

The queue is one Redis stream per job, `tasks:JOB`, with one message per task: {"task": INDEX}. If a worker dies, its
unacknowledged messages are delivered to another worker after IDLE_MS. Highwater counts a task once, however often it is
reported.

Usage: worker.py HIGHWATER QUEUE [NAME]
Example: worker.py 127.0.0.1:7070 redis://127.0.0.1:6380 worker-1
"""

import os
import signal
import socket
import sys
import time

import redis

from highwater import Highwater

GROUP = "workers"
BATCH_SIZE = 10
IDLE_MS = 1000
STAGE = "render"
# Simulated duration of one task.
SECONDS_A_TASK = float(os.environ.get("SECONDS_A_TASK", "0.01"))

stopping = False


def stop(*_):
    global stopping
    stopping = True


def work(task):
    """Does the work of one task. Returns the result to report."""
    time.sleep(SECONDS_A_TASK)
    return {"task": str(task), "stage": STAGE, "outcome": "OUTCOME_SUCCEEDED"}


class Queue:
    """Delivers at least once: a message stays pending until a worker acknowledges it."""

    def __init__(self, url, name):
        self.redis = redis.Redis.from_url(url, decode_responses=True)
        self.name = name

    def take(self, job):
        try:
            return self.read(f"tasks:{job}")
        except redis.ResponseError as error:
            # The job has ended, and another worker has deleted the queue.
            if str(error).startswith(("NOGROUP", "UNBLOCKED")):
                return []
            raise

    def read(self, stream):
        try:
            self.redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        # First claim messages that were delivered to a worker but not acknowledged in time.
        _, messages, _ = self.redis.xautoclaim(stream, GROUP, self.name, IDLE_MS, count=BATCH_SIZE)
        if not messages:
            found = self.redis.xreadgroup(GROUP, self.name, {stream: ">"}, count=BATCH_SIZE, block=100)
            # Depending on the client's version, this is a list of streams with their messages, or a dictionary.
            found = list(found.items()) if isinstance(found, dict) else found
            messages = found[0][1] if found else []
            messages = messages[0] if messages and isinstance(messages[0], list) else messages
        return [(message, int(fields["task"])) for message, fields in messages]

    def acknowledge(self, job, messages):
        self.redis.xack(f"tasks:{job}", GROUP, *messages)

    def set_aside(self, job, message, task, why):
        """Moves a message whose result cannot be counted to the dead-letter stream, for a person to look at."""
        self.redis.xadd(f"dead:{job}", {"task": task, "why": why})
        self.acknowledge(job, [message])

    def drop(self, job):
        """Deletes the queue of a job that has ended."""
        self.redis.delete(f"tasks:{job}")


def work_on(job, highwater, queue):
    """Works until the queue has no more messages of this job, or the job has ended."""
    while not stopping:
        taken = queue.take(job)
        if not taken:
            return
        results = [work(task) for _, task in taken]
        # Save the output of the work before this line. Report next, and acknowledge last: if the worker dies in
        # between, its messages are delivered and reported again, which changes nothing.
        response = highwater.call_until_answered("ReportService", "ReportResults", job_id=job, results=results)
        # Without this line, a result that is never counted would be acknowledged as if it were done.
        rejected = set_aside_rejected(job, queue, taken, response)
        if response.get("stop"):
            queue.drop(job)
            return
        done = [message for message, _ in taken if message not in rejected]
        if done:
            queue.acknowledge(job, done)


def set_aside_rejected(job, queue, taken, response):
    """Moves the messages of tasks or stages that the job does not have to the dead-letter stream. Returns them."""
    if "rejected_count" not in response:
        return set()
    answered = zip(taken, response["dispositions"])
    rejected = [(message, task, why) for (message, task), why in answered if why.startswith("DISPOSITION_UNKNOWN_")]
    for message, task, why in rejected:
        queue.set_aside(job, message, task, why)
    return {message for message, _, _ in rejected}


def main(highwater, queue, name=None):
    signal.signal(signal.SIGTERM, stop)
    highwater = Highwater(highwater)
    queue = Queue(queue, name or f"{socket.gethostname()}-{os.getpid()}")
    print(f"{queue.name} is at work", flush=True)
    empty = set()
    while not stopping:
        response = highwater.call_until_answered("ReportService", "NextJob", exclude_job_ids=sorted(empty)[:1000])
        if "job" not in response:
            # No job is left except those whose queues were empty: wait, then include these again.
            time.sleep(float(response["retry_after"].removesuffix("s")))
            empty.clear()
            continue
        job = response["job"]["job_id"]
        work_on(job, highwater, queue)
        empty.add(job)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])

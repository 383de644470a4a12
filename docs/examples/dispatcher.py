"""A dispatcher: creates a job, fills its queue, then starts it.

In this order, a worker that gets the job from NextJob finds its tasks in the queue. A dispatcher that fails halfway can
run again from the beginning: creating the job is idempotent, and a task that is queued twice is counted once.

Usage: dispatcher.py HIGHWATER QUEUE JOB TASKS
Example: dispatcher.py 127.0.0.1:7070 redis://127.0.0.1:6380 film-7 240
"""

import sys

import redis

from highwater import Highwater


def main(highwater, queue, job, tasks):
    highwater, queue = Highwater(highwater), redis.Redis.from_url(queue)
    definition = {"job_id": job, "stages": ["render"], "task_count": tasks, "labels": {"kind": "film"}}
    highwater.call_until_answered("JobService", "CreateJob", **definition)
    with queue.pipeline(transaction=False) as pipeline:
        for task in range(int(tasks)):
            pipeline.xadd(f"tasks:{job}", {"task": task})
        pipeline.execute()
    highwater.call_until_answered("JobService", "StartJob", job_id=job)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])

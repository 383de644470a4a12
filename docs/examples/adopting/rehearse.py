"""Runs all four steps in order against a gateway, and asserts what each of them gains.

Usage: rehearse.py HIGHWATER
Example: rehearse.py 127.0.0.1:7070
"""

import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import backend
import follow
import hand_out
import read
import shadow
from highwater import Highwater


def message(job_id, task, **more):
    return {"job_id": job_id, "task": task, "value": "a frame", **more}


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not (result := condition()):
        assert time.monotonic() < deadline, "the condition was not met within 20 s"
        time.sleep(0.05)
    return result


def shadowing(database, highwater):
    job_id = shadow.create_job(database, highwater, 4)
    for task in [0, 1, 1, 1]:
        # The queue delivers task 1 three times.
        shadow.handle_result(database, highwater, message(job_id, task))
    assert read.old_progress(database, job_id)["state"] == "FINISHED", "the old counter counts task 1 three times"
    progress = read.read_progress(database, highwater, job_id)
    assert progress == {"percent": 50, "state": "RUNNING", "at_least": False}, progress

    # No gateway listens on this port: the handler logs a warning and continues.
    unavailable = Highwater("127.0.0.1:1")
    shadow.handle_result(database, unavailable, message(job_id, 2))
    return job_id


def reading(database, highwater, job_id):
    older = backend.create_job(database, 10)
    assert read.read_progress(database, highwater, older)["percent"] == 0, "an older job is read from the old column"
    unavailable = Highwater("127.0.0.1:1")
    assert read.read_progress(database, unavailable, job_id)["percent"] == 100, "without a gateway, so is every job"


def foreign_job(highwater, **definition):
    """Creates a job of another client of the gateway. Returns its ID."""
    job_id = f"foreign-{time.time_ns()}"
    highwater.call("JobService", "CreateJob", job_id=job_id, stages=["fetch"], task_count=1, **definition)
    return job_id


def cancel(highwater, job_id, **reason):
    highwater.call("JobService", "CancelJob", job_id=str(job_id), **reason)


def following(database, highwater):
    cancel(highwater, foreign_job(highwater))
    cancel(highwater, foreign_job(highwater, labels=backend.LABELS))
    job_id = shadow.create_job(database, highwater, 3)
    follow.follow_ends(database, highwater)
    for task in [0, 1, 2, 2]:
        follow.handle_result(database, highwater, message(job_id, task))

    def ended():
        follow.follow_ends(database, highwater)
        return database.execute("SELECT state FROM job WHERE id = ?", (job_id,)).fetchone()[0] == "finished"

    wait_for(ended)
    # A message that arrives after the end is acknowledged, and changes nothing.
    follow.handle_result(database, highwater, message(job_id, 0))
    assert read.read_progress(database, highwater, job_id)["percent"] == 100


def handing_out(database, highwater):
    dead = shadow.create_job(database, highwater, 2)
    alive = shadow.create_job(database, highwater, 2)
    cancel(highwater, dead, reason="no longer needed")
    foreign = foreign_job(highwater, labels=backend.LABELS, start=True)
    handed_out = {wait_for(lambda: hand_out.next_job(highwater)) for _ in range(10)}
    assert alive in handed_out and dead not in handed_out, handed_out
    assert backend.next_job(database) != alive, "the old query still returns a job that no longer runs"
    cancel(highwater, alive)
    cancel(highwater, foreign)


def main(address):
    highwater = Highwater(address)
    with tempfile.TemporaryDirectory() as directory:
        database = backend.open_database(f"{directory}/backend.sqlite")
        # The IDs of this run continue after this job, so that they differ from those of earlier runs.
        database.execute("INSERT INTO job (id, state, task_count) VALUES (?, 'finished', 1)", (time.time_ns(),))
        job_id = shadowing(database, highwater)
        reading(database, highwater, job_id)
        cancel(highwater, job_id)
        following(database, highwater)
        handing_out(database, highwater)
        database.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])

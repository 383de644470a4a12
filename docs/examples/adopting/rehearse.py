"""All four steps, one after the other, against a gateway: what each gains is what is asserted.

Usage: rehearse.py HIGHWATER, such as: rehearse.py 127.0.0.1:7070
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


def until(look):
    deadline = time.monotonic() + 20
    while not (found := look()):
        assert time.monotonic() < deadline, "waited 20 s in vain"
        time.sleep(0.05)
    return found


def shadowing(database, highwater):
    job_id = shadow.create_job(database, highwater, 4)
    for task in [0, 1, 1, 1]:
        # The queue delivers task 1 three times.
        shadow.handle_result(database, highwater, message(job_id, task))
    assert read.old_progress(database, job_id)["state"] == "FINISHED", "the old counter says that all is done"
    told = read.progress(database, highwater, job_id)
    assert told == {"percent": 50, "state": "RUNNING", "at_least": False}, told

    # Highwater is away: the shadow says so in the log, and the handler goes on as ever.
    nowhere = Highwater("127.0.0.1:1")
    shadow.handle_result(database, nowhere, message(job_id, 2))
    return job_id


def reading(database, highwater, job_id):
    older = backend.create_job(database, 10)
    assert read.progress(database, highwater, older)["percent"] == 0, "a job from before is read from the old column"
    assert read.progress(database, Highwater("127.0.0.1:1"), job_id)["percent"] == 100, "and so is one that cannot be asked"


def following(database, highwater):
    job_id = shadow.create_job(database, highwater, 3)
    follow.follow_endings(database, highwater)
    for task in [0, 1, 2, 2]:
        follow.handle_result(database, highwater, message(job_id, task))

    def ended():
        follow.follow_endings(database, highwater)
        return database.execute("SELECT state FROM job WHERE id = ?", (job_id,)).fetchone()[0] == "finished"

    until(ended)
    # A message that comes late is acknowledged, and changes nothing.
    follow.handle_result(database, highwater, message(job_id, 0))
    assert read.progress(database, highwater, job_id)["percent"] == 100


def handing_out(database, highwater):
    dead = shadow.create_job(database, highwater, 2)
    alive = shadow.create_job(database, highwater, 2)
    highwater.call("JobService", "CancelJob", job_id=str(dead), reason="nobody needs it")
    handed_out = {until(lambda: hand_out.next_job(highwater)) for _ in range(10)}
    assert alive in handed_out and dead not in handed_out, handed_out
    assert backend.next_job(database) != alive, "the old way is stuck with what it takes for running"


def main(address):
    highwater = Highwater(address)
    with tempfile.TemporaryDirectory() as directory:
        database = backend.open_database(f"{directory}/backend.sqlite")
        job_id = shadowing(database, highwater)
        reading(database, highwater, job_id)
        following(database, highwater)
        handing_out(database, highwater)
        database.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])

"""A typical backend before it adopts Highwater: a table of jobs with integer IDs, and a JSON column with the progress
of each job, which every result handler reads, changes and writes back.

The example uses sqlite as its database, and calls the handlers directly instead of using a queue, so that the steps in
this directory run without further servers.
"""

import json
import logging
import sqlite3

STAGES = ["render"]
# The label of this backend's jobs. Other clients of the gateway may use other job IDs, which this backend cannot read.
LABELS = {"owner": "film-backend"}

log = logging.getLogger("highwater")


def own_id(job_id):
    """The ID of a job of this backend, or None for the job of somebody else who used this backend's label. One such job
    must not stop a loop over jobs."""
    if job_id.isdecimal():
        return int(job_id)
    log.warning("job %s is not a job of this backend", job_id)
    return None


def open_database(path):
    database = sqlite3.connect(path, isolation_level=None)
    database.executescript("""
        CREATE TABLE IF NOT EXISTS job (
            id INTEGER PRIMARY KEY, state TEXT NOT NULL DEFAULT 'running', task_count INTEGER NOT NULL,
            progress TEXT NOT NULL DEFAULT '{"done": 0, "failed": 0}');
        CREATE TABLE IF NOT EXISTS result (job_id INTEGER, task INTEGER, value TEXT, PRIMARY KEY (job_id, task));
        CREATE TABLE IF NOT EXISTS cursor (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    """)
    return database


def create_job(database, task_count):
    return database.execute("INSERT INTO job (task_count) VALUES (?)", (task_count,)).lastrowid


def save_result(database, job_id, task, value):
    """Saves the output of a task. Every step does this first: Highwater stores progress, not results."""
    database.execute("INSERT OR REPLACE INTO result VALUES (?, ?, ?)", (job_id, task, value))


def count_result(database, job_id, failed):
    """Counts in the old way: read, change, write back. This loses updates, and counts a redelivered message twice."""
    row = database.execute("SELECT progress, task_count FROM job WHERE id = ?", (job_id,)).fetchone()
    progress, task_count = json.loads(row[0]), row[1]
    progress["failed" if failed else "done"] += 1
    complete = progress["done"] + progress["failed"] >= task_count
    state = "finished" if complete else "running"
    database.execute(
        "UPDATE job SET progress = ?, state = ? WHERE id = ?", (json.dumps(progress), state, job_id)
    )


def next_job(database):
    """Selects a job in the old way: the oldest one that is "running" according to its column, even if it is dead."""
    row = database.execute("SELECT id FROM job WHERE state = 'running' ORDER BY id LIMIT 1").fetchone()
    return row and row[0]

-- A job: what it is, where it stands, and, once it has ended, how it ended. One row each, in one table, so that the
-- end and the snapshot are one write and one guard protects both.
CREATE TABLE jobs (
    job_id            text PRIMARY KEY,
    display_name      text NOT NULL,
    labels            jsonb NOT NULL,
    stages            text[] NOT NULL,
    task_count        integer NOT NULL,
    failure_threshold double precision NOT NULL,
    state             text NOT NULL DEFAULT 'PENDING',
    -- Which tracker in Redis is the job's own. Issued to a start before it opens one, so that no two trackers of a
    -- job ever have the same, and a commit can refuse the seal of an older one. 0: none yet.
    incarnation       bigint NOT NULL DEFAULT 0,
    create_time       timestamptz NOT NULL DEFAULT now(),
    start_time        timestamptz,
    end_time          timestamptz,
    cancel_reason     text NOT NULL DEFAULT '',
    -- The final progress: counts, revision, last progress time, errors, whether it is a lower bound.
    snapshot          jsonb,
    -- Which task stood where at each stage: the tracker's cells as they were counted, compressed (zlib).
    cells             bytea,

    -- The same limits as the gateway's; they also bind a person in psql.
    CONSTRAINT job_id_is_an_id CHECK (job_id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$'),
    CONSTRAINT labels_are_an_object CHECK (jsonb_typeof(labels) = 'object'),
    CONSTRAINT stages_are_1_to_8 CHECK (cardinality(stages) BETWEEN 1 AND 8),
    CONSTRAINT task_count_in_range CHECK (task_count BETWEEN 0 AND 10000000),
    CONSTRAINT failure_threshold_is_a_share CHECK (failure_threshold BETWEEN 0 AND 1),
    CONSTRAINT state_is_a_state
        CHECK (state IN ('PENDING', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'REVOKED')),

    -- Ended means: ended at a time, with a snapshot, with cells. Not ended means: none of these. No half of it is
    -- ever stored (invariant I1).
    CONSTRAINT ended_has_an_end_time CHECK ((state IN ('PENDING', 'RUNNING')) = (end_time IS NULL)),
    CONSTRAINT ended_has_a_snapshot CHECK ((state IN ('PENDING', 'RUNNING')) = (snapshot IS NULL)),
    CONSTRAINT ended_has_cells CHECK ((state IN ('PENDING', 'RUNNING')) = (cells IS NULL)),
    -- Whatever came to run was started; only a job that never ran, so was cancelled, can have ended without.
    CONSTRAINT started_has_a_start_time CHECK (
        CASE state WHEN 'PENDING' THEN start_time IS NULL WHEN 'CANCELLED' THEN true ELSE start_time IS NOT NULL END),
    CONSTRAINT times_in_order CHECK (end_time >= start_time),
    CONSTRAINT running_has_an_incarnation CHECK (incarnation > 0 OR state <> 'RUNNING'),
    CONSTRAINT only_a_cancel_has_a_reason CHECK (cancel_reason = '' OR state = 'CANCELLED')
);

-- What the reconciler walks over: a table of millions of ended jobs costs it nothing.
CREATE INDEX jobs_running ON jobs (job_id) WHERE state = 'RUNNING';

-- Cells are compressed already: trying again only costs time.
ALTER TABLE jobs ALTER COLUMN cells SET STORAGE EXTERNAL;

-- The schema of Highwater. The triggers enforce invariant I1 (a job ends once, and its end never changes) for every
-- client: for gateways, including a gateway that resumes after a stall, and for operators in psql. The triggers are
-- ENABLE ALWAYS, so that they also fire with session_replication_role = replica, which disables ordinary triggers.

------------------------------------------------------------------------------------------------------------------
-- Installation
------------------------------------------------------------------------------------------------------------------

-- Names this installation, so that gateways recognise the Redis that belongs to it. A copy of the database has the same
-- name, because it continues the installation.
CREATE TABLE installation (
    only_row boolean PRIMARY KEY DEFAULT true,
    id       bytea NOT NULL DEFAULT substring(sha256(gen_random_uuid()::text::bytea) FROM 1 FOR 8),

    CONSTRAINT one_row CHECK (only_row),
    CONSTRAINT id_has_eight_bytes CHECK (length(id) = 8)
);
INSERT INTO installation DEFAULT VALUES;

------------------------------------------------------------------------------------------------------------------
-- Jobs
------------------------------------------------------------------------------------------------------------------

-- The size of all keys and values of a job's labels, in bytes.
CREATE FUNCTION label_bytes(labels jsonb) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(sum(octet_length(key) + octet_length(value)), 0)::bigint FROM jsonb_each_text(labels)
$$;

-- One row per job: its definition, its state and, once it has ended, its final progress. The end and the snapshot are
-- columns of one row, so that a single UPDATE writes both and a single guard protects both.
CREATE TABLE jobs (
    job_id             text PRIMARY KEY,
    display_name       text NOT NULL,
    labels             jsonb NOT NULL,
    stages             text[] NOT NULL,
    task_count         integer NOT NULL,
    -- The task_count of the CreateJob call; NULL if no tasks were added later. A repeated CreateJob call is compared
    -- with it.
    created_task_count integer,
    -- Whether the tasks have names. The names are in task_names.
    named_tasks        boolean NOT NULL DEFAULT false,
    failure_threshold  double precision NOT NULL,
    -- The time without progress after which the job is revoked, in milliseconds. If NULL, the gateways' setting
    -- applies.
    stall_timeout      bigint,

    state              text NOT NULL DEFAULT 'PENDING',
    -- Identifies which tracker in Redis belongs to the job (a fencing token); 0 if no incarnation was issued. An
    -- incarnation is issued before its tracker is opened. No two trackers of a job therefore have the same incarnation,
    -- and a commit can reject the seal of an older tracker.
    incarnation        bigint NOT NULL DEFAULT 0,
    -- Whether a tracker was opened for the job, so that Redis may hold marks that Postgres lacks. If false, the ledger
    -- holds all marks.
    tracked            boolean NOT NULL DEFAULT false,
    create_time        timestamptz NOT NULL DEFAULT now(),
    start_time         timestamptz,
    end_time           timestamptz,
    cancel_reason      text NOT NULL DEFAULT '',

    -- The final progress: counts, revision, last progress time, restore time and errors.
    snapshot           jsonb,
    -- The marks that the snapshot counts: the tracker's cells, compressed with zlib.
    cells              bytea,
    -- Whether the snapshot may miss acknowledged marks. Missing marks can be added to it once.
    lower_bound        boolean NOT NULL DEFAULT false,

    -- These limits equal the limits in src/domain/. Here they also apply to clients other than gateways.
    CONSTRAINT job_id_format CHECK (job_id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$'),
    CONSTRAINT labels_are_an_object CHECK (jsonb_typeof(labels) = 'object'),
    CONSTRAINT labels_are_small CHECK (jsonb_typeof(labels) <> 'object' OR label_bytes(labels) <= 4096),
    CONSTRAINT stage_count_in_range CHECK (cardinality(stages) BETWEEN 1 AND 8),
    CONSTRAINT task_count_in_range CHECK (task_count BETWEEN 0 AND 10000000),
    CONSTRAINT created_task_count_in_range CHECK (created_task_count BETWEEN 0 AND task_count - 1),
    CONSTRAINT named_tasks_start_empty CHECK (NOT named_tasks OR coalesce(created_task_count, task_count) = 0),
    CONSTRAINT failure_threshold_in_range CHECK (failure_threshold BETWEEN 0 AND 1),
    CONSTRAINT stall_timeout_in_range CHECK (stall_timeout BETWEEN 1000 AND 316224000000),
    CONSTRAINT state_is_known
        CHECK (state IN ('PENDING', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'REVOKED')),

    -- An ended job has an end time, a snapshot and cells. Any other job has none of the three (invariant I1).
    CONSTRAINT ended_has_end_time CHECK ((state IN ('PENDING', 'RUNNING')) = (end_time IS NULL)),
    CONSTRAINT ended_has_snapshot CHECK ((state IN ('PENDING', 'RUNNING')) = (snapshot IS NULL)),
    CONSTRAINT ended_has_cells CHECK ((state IN ('PENDING', 'RUNNING')) = (cells IS NULL)),
    -- Only a job that was cancelled while PENDING ends without a start time.
    CONSTRAINT started_has_start_time CHECK (
        CASE state WHEN 'PENDING' THEN start_time IS NULL WHEN 'CANCELLED' THEN true ELSE start_time IS NOT NULL END),
    CONSTRAINT end_not_before_start CHECK (end_time >= start_time),
    CONSTRAINT running_has_incarnation CHECK (incarnation > 0 OR state <> 'RUNNING'),
    CONSTRAINT only_cancelled_has_reason CHECK (cancel_reason = '' OR state = 'CANCELLED'),
    CONSTRAINT lower_bound_only_if_cancelled_or_revoked CHECK (NOT lower_bound OR state IN ('CANCELLED', 'REVOKED'))
);

-- Cells are already compressed, so a second compression would only cost time.
ALTER TABLE jobs ALTER COLUMN cells SET STORAGE EXTERNAL;

-- The feed lists the running jobs with this index, so that the cost does not depend on the number of ended jobs.
CREATE INDEX jobs_running ON jobs (job_id) WHERE state = 'RUNNING';
-- The reconciler uses this index to find ends to which it can add missing marks.
CREATE INDEX jobs_lower_bound ON jobs (job_id) WHERE lower_bound;

------------------------------------------------------------------------------------------------------------------
-- Guards of job rows (invariant I1)
------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION guard_job_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state NOT IN ('PENDING', 'RUNNING') THEN
        -- An ended job can change only once: marks that its end missed are added, which clears lower_bound. State,
        -- times and cancel reason stay the same.
        IF OLD.lower_bound AND NOT NEW.lower_bound
            AND to_jsonb(NEW) - ARRAY['snapshot', 'cells', 'lower_bound']
                = to_jsonb(OLD) - ARRAY['snapshot', 'cells', 'lower_bound'] THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'job % has ended (%): an ended job is never changed', OLD.job_id, OLD.state
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF (NEW.job_id, NEW.display_name, NEW.labels, NEW.stages, NEW.failure_threshold, NEW.stall_timeout,
        NEW.create_time, NEW.named_tasks)
        IS DISTINCT FROM
        (OLD.job_id, OLD.display_name, OLD.labels, OLD.stages, OLD.failure_threshold, OLD.stall_timeout,
        OLD.create_time, OLD.named_tasks)
    THEN
        RAISE EXCEPTION 'job %: its definition cannot change', OLD.job_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    -- Adding tasks requires a new incarnation, so that each incarnation has one number of tasks. A start that opened a
    -- tracker for fewer tasks then cannot commit.
    IF (NEW.task_count, NEW.created_task_count) IS DISTINCT FROM (OLD.task_count, OLD.created_task_count)
        AND NOT (OLD.state = 'PENDING' AND NEW.state = 'PENDING' AND NEW.task_count > OLD.task_count
            AND NEW.created_task_count = coalesce(OLD.created_task_count, OLD.task_count)
            AND NEW.incarnation > OLD.incarnation) THEN
        RAISE EXCEPTION 'job %: tasks can only be added, while the job is PENDING and with a new incarnation',
            OLD.job_id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF OLD.state = 'RUNNING' AND NEW.state = 'PENDING'
        OR OLD.state = 'PENDING' AND NEW.state IN ('FAILED', 'REVOKED') THEN
        RAISE EXCEPTION 'job %: its state cannot change from % to %', OLD.job_id, OLD.state, NEW.state
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.incarnation < OLD.incarnation OR OLD.tracked AND NOT NEW.tracked THEN
        RAISE EXCEPTION 'job %: its incarnation cannot decrease, and tracked cannot become false', OLD.job_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION guard_job_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state IN ('PENDING', 'RUNNING') THEN
        RAISE EXCEPTION 'job % is %: only an ended job can be deleted, so cancel it first', OLD.job_id, OLD.state
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN OLD;
END $$;

CREATE FUNCTION guard_job_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'jobs cannot be truncated: some may not have ended'
        USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER guard_job_update BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION guard_job_update();
CREATE TRIGGER guard_job_delete BEFORE DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION guard_job_delete();
CREATE TRIGGER guard_job_truncate BEFORE TRUNCATE ON jobs FOR EACH STATEMENT EXECUTE FUNCTION guard_job_truncate();
ALTER TABLE jobs ENABLE ALWAYS TRIGGER guard_job_update;
ALTER TABLE jobs ENABLE ALWAYS TRIGGER guard_job_delete;
ALTER TABLE jobs ENABLE ALWAYS TRIGGER guard_job_truncate;

------------------------------------------------------------------------------------------------------------------
-- Tombstones: a job ID cannot be reused
------------------------------------------------------------------------------------------------------------------

-- Gateways cache ended jobs, and workers may still report to a deleted job. If a second job had the same ID, calls for
-- it could be answered with the end of the first job. Therefore the ID of a deleted job is kept.
CREATE TABLE tombstones (
    job_id      text PRIMARY KEY,
    delete_time timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION add_tombstone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tombstones (job_id) VALUES (OLD.job_id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

CREATE FUNCTION guard_job_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM tombstones WHERE job_id = NEW.job_id) THEN
        RAISE EXCEPTION 'job % was deleted: job IDs cannot be reused', NEW.job_id USING ERRCODE = 'unique_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER add_tombstone AFTER DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION add_tombstone();
CREATE TRIGGER guard_job_insert BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION guard_job_insert();
ALTER TABLE jobs ENABLE ALWAYS TRIGGER add_tombstone;
ALTER TABLE jobs ENABLE ALWAYS TRIGGER guard_job_insert;

------------------------------------------------------------------------------------------------------------------
-- Ledger
------------------------------------------------------------------------------------------------------------------

-- Marks that were accepted while the tracker could not take them: one row for each batch of reports, and one row for
-- each chunk of a recorded mirror. Rows are never updated. A row is deleted after its marks are in the tracker or in
-- the snapshot.
CREATE TABLE ledger (
    job_id      text NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
    entry       bigint GENERATED ALWAYS AS IDENTITY,
    -- Six bytes per mark, big-endian: task (4 bytes), stage (1 byte), outcome (1 byte: 1 failed, 2 succeeded).
    marks       bytea NOT NULL,
    record_time timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (job_id, entry),
    CONSTRAINT marks_have_six_bytes_each CHECK (length(marks) > 0 AND length(marks) % 6 = 0)
);
ALTER TABLE ledger ALTER COLUMN marks SET STORAGE EXTERNAL;

------------------------------------------------------------------------------------------------------------------
-- Feed: notifications on the channel `highwater`, which src/store/feed.rs parses
------------------------------------------------------------------------------------------------------------------

-- The transaction that makes the change also sends its notification, whichever client runs it.

-- Sends `running INCARNATION STALL_TIMEOUT JOB` and `ended JOB`. The stall timeout is in milliseconds; 0 if the job has
-- none of its own.
CREATE FUNCTION announce_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state = 'RUNNING' THEN
        PERFORM pg_notify('highwater',
            'running ' || NEW.incarnation || ' ' || coalesce(NEW.stall_timeout, 0) || ' ' || NEW.job_id);
    ELSIF OLD.state = 'RUNNING' AND NEW.state <> 'RUNNING' THEN
        PERFORM pg_notify('highwater', 'ended ' || NEW.job_id);
    END IF;
    RETURN NULL;
END $$;

-- Sends `recorded JOB` for each inserted ledger row, and `drained JOB` for each deleted ledger row.
CREATE FUNCTION announce_ledger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM pg_notify('highwater', 'recorded ' || NEW.job_id);
    ELSE
        PERFORM pg_notify('highwater', 'drained ' || OLD.job_id);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER announce_job AFTER UPDATE OF state, incarnation ON jobs FOR EACH ROW EXECUTE FUNCTION announce_job();
CREATE TRIGGER announce_ledger AFTER INSERT OR DELETE ON ledger FOR EACH ROW EXECUTE FUNCTION announce_ledger();
ALTER TABLE jobs ENABLE ALWAYS TRIGGER announce_job;
ALTER TABLE ledger ENABLE ALWAYS TRIGGER announce_ledger;

------------------------------------------------------------------------------------------------------------------
-- Task names (the manifest)
------------------------------------------------------------------------------------------------------------------

-- The names of tasks, in consecutive blocks, in the order of the tasks, without gaps.
CREATE TABLE task_names (
    job_id     text NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
    first_task integer NOT NULL,
    task_count integer NOT NULL,
    -- The total length of the names before compression, without newlines. A gateway needs this memory to hold the
    -- names.
    name_bytes integer NOT NULL,
    -- The names, each followed by a newline, compressed with zlib. A name contains no newline.
    names      bytea NOT NULL,

    PRIMARY KEY (job_id, first_task),
    CONSTRAINT block_has_tasks CHECK (first_task >= 0 AND task_count > 0 AND name_bytes >= task_count)
);
ALTER TABLE task_names ALTER COLUMN names SET STORAGE EXTERNAL;

-- Names change only while their job is PENDING. Afterwards they are deleted only together with the job.
CREATE FUNCTION guard_task_names() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed_job text := coalesce(NEW.job_id, OLD.job_id);
BEGIN
    IF EXISTS (SELECT FROM jobs WHERE job_id = changed_job AND state <> 'PENDING') THEN
        RAISE EXCEPTION 'job % was started: the names of its tasks never change', changed_job
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER guard_task_names BEFORE INSERT OR UPDATE OR DELETE ON task_names
    FOR EACH ROW EXECUTE FUNCTION guard_task_names();
ALTER TABLE task_names ENABLE ALWAYS TRIGGER guard_task_names;

------------------------------------------------------------------------------------------------------------------
-- Retries
------------------------------------------------------------------------------------------------------------------

-- Links each job that retries tasks of an ended job to that job. This is a separate table because the row of an ended
-- job never changes. A job has at most one retry, so that a repeated RetryJob call finds the retry of the first call.
CREATE TABLE retries (
    job_id      text PRIMARY KEY REFERENCES jobs (job_id) ON DELETE CASCADE,
    -- This is not a foreign key: the old job may be deleted first, and the link then stays valid.
    retry_of    text NOT NULL UNIQUE,
    -- Whether the retry also contains the outstanding tasks, not only the failed tasks.
    outstanding boolean NOT NULL,
    -- Maps each task to its task in the first job of a chain of retries. Each run of consecutive tasks is stored as two
    -- varints: the gap to the previous run, and the length. A varint has seven bits per byte, the least significant
    -- bits first. The value is compressed with zlib.
    origins     bytea NOT NULL,

    CONSTRAINT retry_of_another_job CHECK (retry_of <> job_id)
);
ALTER TABLE retries ALTER COLUMN origins SET STORAGE EXTERNAL;

CREATE FUNCTION guard_retry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'job % is the retry of %: this link cannot change', OLD.job_id, OLD.retry_of
        USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER guard_retry BEFORE UPDATE ON retries FOR EACH ROW EXECUTE FUNCTION guard_retry();
ALTER TABLE retries ENABLE ALWAYS TRIGGER guard_retry;

------------------------------------------------------------------------------------------------------------------
-- Lists and end times
------------------------------------------------------------------------------------------------------------------

-- Lists of jobs are ordered by creation (newest first) or by end (earliest first). Each index begins with the state, so
-- that a list of the few running jobs does not scan the many ended jobs. COLLATE "C" compares IDs byte by byte,
-- whatever the collation of the database.
CREATE INDEX jobs_by_creation ON jobs (state, create_time, job_id COLLATE "C");
CREATE INDEX jobs_by_end ON jobs (state, end_time, job_id COLLATE "C") WHERE end_time IS NOT NULL;
CREATE INDEX jobs_by_labels ON jobs USING gin (labels jsonb_path_ops);

-- A client that lists ends in order must not miss an end that commits late. Therefore this trigger takes an advisory
-- lock and then sets end_time. The key of the lock is a second that is not later than end_time, and the transaction
-- holds the lock until its end. ends_visible_before() finds the earliest of these locks. The trigger applies to every
-- client, including psql. 4841 is the class of the locks. Seconds are counted from 2020-01-01, so that they fit an
-- integer until 2088.
CREATE FUNCTION date_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(4841, floor(extract(epoch FROM clock_timestamp()) - 1577836800)::integer);
    NEW.end_time := greatest(clock_timestamp(), NEW.start_time);
    RETURN NEW;
END $$;

CREATE TRIGGER date_end BEFORE UPDATE OF state ON jobs FOR EACH ROW
    WHEN (OLD.state IN ('PENDING', 'RUNNING') AND NEW.state NOT IN ('PENDING', 'RUNNING'))
    EXECUTE FUNCTION date_end();
ALTER TABLE jobs ENABLE ALWAYS TRIGGER date_end;

-- Returns a time before which every end is committed, and visible to each statement that begins after this call.
-- (Postgres releases locks only after the commit is visible.)
CREATE FUNCTION ends_visible_before() RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    call_time CONSTANT timestamptz := clock_timestamp();
    earliest_lock CONSTANT bigint := (
        SELECT min(objid::bigint) FROM pg_locks
        WHERE locktype = 'advisory' AND classid = 4841 AND objsubid = 2
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database()));
BEGIN
    RETURN least(call_time, to_timestamp(earliest_lock + 1577836800));
END $$;

------------------------------------------------------------------------------------------------------------------
-- Secrets
------------------------------------------------------------------------------------------------------------------

-- One row with the random key that authenticates page tokens. All gateways of the installation read it, so that each
-- gateway accepts the tokens of the others. A UUID has 122 random bits.
CREATE TABLE secrets (
    only_row       boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    page_token_key bytea NOT NULL CHECK (length(page_token_key) >= 32)
);
INSERT INTO secrets (page_token_key)
VALUES (sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')));

------------------------------------------------------------------------------------------------------------------
-- Write probe
------------------------------------------------------------------------------------------------------------------

-- One row, which the readiness check of a gateway writes to find out whether Postgres accepts writes. It belongs to no
-- job.
CREATE TABLE write_probe (
    single     boolean PRIMARY KEY DEFAULT true,
    probe_time timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT only_one_row CHECK (single)
);

-- What keeps Highwater right while Redis is not there: the ledger, the feed, and ends that are completed later.

ALTER TABLE jobs
    -- A tracker was ever opened for it, so that marks may be where Postgres cannot see them. Without: all are in the
    -- ledger.
    ADD COLUMN tracked boolean NOT NULL DEFAULT false,
    -- The snapshot may miss marks that a tracker which could not be reached still holds; they are added once.
    ADD COLUMN lower_bound boolean NOT NULL DEFAULT false,
    -- How long it may make no progress before it is revoked, in milliseconds; NULL: as the gateways are configured.
    ADD COLUMN stall_timeout bigint,
    ADD CONSTRAINT stall_timeout_in_range CHECK (stall_timeout BETWEEN 1000 AND 316224000000);

-- Jobs that ran before these columns were there had a tracker.
UPDATE jobs SET tracked = true WHERE state = 'RUNNING';

ALTER TABLE jobs
    ADD CONSTRAINT only_an_unseen_end_is_a_lower_bound CHECK (NOT lower_bound OR state IN ('CANCELLED', 'REVOKED'));

-- What the reconciler completes.
CREATE INDEX jobs_lower_bound ON jobs (job_id) WHERE lower_bound;

-- Reports that were taken while the tracker could not take them. Rows are only inserted, one a call, and deleted once
-- their marks are in the tracker or in the snapshot.
CREATE TABLE ledger (
    job_id      text NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
    entry       bigint GENERATED ALWAYS AS IDENTITY,
    -- Six bytes a mark, big-endian: task (4), stage (1), 1 failed or 2 succeeded (1).
    marks       bytea NOT NULL,
    record_time timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (job_id, entry),
    CONSTRAINT marks_are_whole CHECK (length(marks) > 0 AND length(marks) % 6 = 0)
);
ALTER TABLE ledger ALTER COLUMN marks SET STORAGE EXTERNAL;

-- Invariant I1, as before, with its one exception: the marks that an end could not see may be added to it, once. Neither
-- state nor times nor reason change with it.
CREATE OR REPLACE FUNCTION guard_job_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state NOT IN ('PENDING', 'RUNNING') THEN
        IF OLD.lower_bound AND NOT NEW.lower_bound
            AND to_jsonb(NEW) - ARRAY['snapshot', 'cells', 'lower_bound']
                = to_jsonb(OLD) - ARRAY['snapshot', 'cells', 'lower_bound'] THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'job % has ended (%): an ended job is never changed', OLD.job_id, OLD.state
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF (NEW.job_id, NEW.display_name, NEW.labels, NEW.stages, NEW.task_count, NEW.failure_threshold, NEW.stall_timeout,
        NEW.create_time)
        IS DISTINCT FROM
        (OLD.job_id, OLD.display_name, OLD.labels, OLD.stages, OLD.task_count, OLD.failure_threshold, OLD.stall_timeout,
        OLD.create_time)
    THEN
        RAISE EXCEPTION 'job %: what a job is never changes', OLD.job_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF OLD.state = 'RUNNING' AND NEW.state = 'PENDING'
        OR OLD.state = 'PENDING' AND NEW.state IN ('FAILED', 'REVOKED') THEN
        RAISE EXCEPTION 'job %: no way leads from % to %', OLD.job_id, OLD.state, NEW.state
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.incarnation < OLD.incarnation OR OLD.tracked AND NOT NEW.tracked THEN
        RAISE EXCEPTION 'job %: the incarnation only grows, and a tracker was opened or was not', OLD.job_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

-- The feed: who runs, with which incarnation and stall timeout (0: none of its own), who has ended, whose ledger changed. Sent by the transaction that makes
-- it true, whoever that is; nobody has to remember to.
CREATE FUNCTION announce_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state = 'RUNNING' THEN
        PERFORM pg_notify('highwater', 'running ' || NEW.incarnation || ' ' || coalesce(NEW.stall_timeout, 0) || ' ' || NEW.job_id);
    ELSIF OLD.state = 'RUNNING' AND NEW.state <> 'RUNNING' THEN
        PERFORM pg_notify('highwater', 'ended ' || NEW.job_id);
    END IF;
    RETURN NULL;
END $$;

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

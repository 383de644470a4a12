-- Tasks that are added before the start, by number or by name.

ALTER TABLE jobs
    ADD COLUMN named_tasks boolean NOT NULL DEFAULT false,
    -- With how many tasks it was created, if some were added since: what a repeated CreateJob is compared with.
    ADD COLUMN created_task_count integer,
    ADD CONSTRAINT created_with_fewer_tasks CHECK (created_task_count BETWEEN 0 AND task_count - 1),
    ADD CONSTRAINT named_tasks_are_added CHECK (NOT named_tasks OR coalesce(created_task_count, task_count) = 0);

-- The manifest: which name is which task. Blocks of names in the order of their tasks, without a gap.
CREATE TABLE task_names (
    job_id     text NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
    first_task integer NOT NULL,
    task_count integer NOT NULL,
    -- Of the names, before they were compressed: what a gateway needs to hold them.
    name_bytes integer NOT NULL,
    -- Each name followed by a newline (which no name has), compressed (zlib).
    names      bytea NOT NULL,

    PRIMARY KEY (job_id, first_task),
    CONSTRAINT a_block_has_tasks CHECK (first_task >= 0 AND task_count > 0 AND name_bytes >= task_count)
);
ALTER TABLE task_names ALTER COLUMN names SET STORAGE EXTERNAL;

-- As before, but for the tasks: their number grows while the job is PENDING. Each growth issues an incarnation, so that a
-- start which opened a tracker for fewer tasks is not the job's start any more: an incarnation has one total.
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
    IF (NEW.job_id, NEW.display_name, NEW.labels, NEW.stages, NEW.failure_threshold, NEW.stall_timeout,
        NEW.create_time, NEW.named_tasks)
        IS DISTINCT FROM
        (OLD.job_id, OLD.display_name, OLD.labels, OLD.stages, OLD.failure_threshold, OLD.stall_timeout,
        OLD.create_time, OLD.named_tasks)
    THEN
        RAISE EXCEPTION 'job %: what a job is never changes', OLD.job_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF (NEW.task_count, NEW.created_task_count) IS DISTINCT FROM (OLD.task_count, OLD.created_task_count)
        AND NOT (OLD.state = 'PENDING' AND NEW.state = 'PENDING' AND NEW.task_count > OLD.task_count
            AND NEW.created_task_count = coalesce(OLD.created_task_count, OLD.task_count)
            AND NEW.incarnation > OLD.incarnation) THEN
        RAISE EXCEPTION 'job %: tasks are only added, before the start, and with a new incarnation', OLD.job_id
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

-- Names stay what they are once the job was started, and go only with their job.
CREATE FUNCTION guard_task_names() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    of_job text := coalesce(NEW.job_id, OLD.job_id);
BEGIN
    IF EXISTS (SELECT FROM jobs WHERE job_id = of_job AND state <> 'PENDING') THEN
        RAISE EXCEPTION 'job % was started: the names of its tasks never change', of_job
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

-- Invariant I1, enforced where everybody passes: the gateway, a stale replica of it, a person in psql.
CREATE FUNCTION guard_job_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state NOT IN ('PENDING', 'RUNNING') THEN
        RAISE EXCEPTION 'job % has ended (%): an ended job is never changed', OLD.job_id, OLD.state
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF OLD.state = 'RUNNING' AND NEW.state = 'PENDING'
        OR OLD.state = 'PENDING' AND NEW.state IN ('FAILED', 'REVOKED') THEN
        RAISE EXCEPTION 'job %: no way leads from % to %', OLD.job_id, OLD.state, NEW.state
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.incarnation < OLD.incarnation THEN
        RAISE EXCEPTION 'job %: the incarnation only grows', OLD.job_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF (NEW.job_id, NEW.display_name, NEW.labels, NEW.stages, NEW.task_count, NEW.failure_threshold, NEW.create_time)
        IS DISTINCT FROM
        (OLD.job_id, OLD.display_name, OLD.labels, OLD.stages, OLD.task_count, OLD.failure_threshold, OLD.create_time)
    THEN
        RAISE EXCEPTION 'job %: what a job is never changes', OLD.job_id
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

-- Also under session_replication_role = replica, which switches ordinary triggers off.
ALTER TABLE jobs ENABLE ALWAYS TRIGGER guard_job_update;
ALTER TABLE jobs ENABLE ALWAYS TRIGGER guard_job_delete;
ALTER TABLE jobs ENABLE ALWAYS TRIGGER guard_job_truncate;

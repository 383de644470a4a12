-- A job's id is never used again. Gateways remember ended jobs, and workers may still report to them; a second job of the
-- same name would be told the end of the first. So deleting a job leaves its id behind.
CREATE TABLE tombstones (
    job_id      text PRIMARY KEY,
    delete_time timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION bury_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tombstones (job_id) VALUES (OLD.job_id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

CREATE FUNCTION guard_job_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM tombstones WHERE job_id = NEW.job_id) THEN
        RAISE EXCEPTION 'job % was deleted: its id is never used again', NEW.job_id USING ERRCODE = 'unique_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER bury_job AFTER DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION bury_job();
CREATE TRIGGER guard_job_insert BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION guard_job_insert();
ALTER TABLE jobs ENABLE ALWAYS TRIGGER bury_job;
ALTER TABLE jobs ENABLE ALWAYS TRIGGER guard_job_insert;

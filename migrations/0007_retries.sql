-- Jobs that try tasks of another job again, once that has ended. The link lies beside both, since an ended job is never
-- changed, and it is for good. A job has at most one retry, so that a repeated call finds it.
CREATE TABLE retries (
    job_id      text PRIMARY KEY REFERENCES jobs (job_id) ON DELETE CASCADE,
    -- Not a reference: the old job may be deleted before the new one, and was what it was.
    retry_of    text NOT NULL UNIQUE,
    -- Outstanding tasks are tried again too, not only failed ones.
    outstanding boolean NOT NULL,
    -- Which task of the first job each task is: for each run of consecutive ones how far it lies behind the run before,
    -- and how many they are, as numbers of seven bits a byte, the lowest first; compressed (zlib).
    origins     bytea NOT NULL,

    CONSTRAINT nobody_retries_itself CHECK (retry_of <> job_id)
);
ALTER TABLE retries ALTER COLUMN origins SET STORAGE EXTERNAL;

CREATE FUNCTION guard_retry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'job % is the retry of %, for good', OLD.job_id, OLD.retry_of
        USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER guard_retry BEFORE UPDATE ON retries FOR EACH ROW EXECUTE FUNCTION guard_retry();
ALTER TABLE retries ENABLE ALWAYS TRIGGER guard_retry;

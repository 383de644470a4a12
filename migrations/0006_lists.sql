-- Lists of jobs: newest first, or in the order in which they ended. Both go by state, so that a list of the few jobs that
-- run never walks over the many that have ended. Ids are compared byte by byte, whatever the database's language.
CREATE INDEX jobs_by_creation ON jobs (state, create_time, job_id COLLATE "C");
CREATE INDEX jobs_by_end ON jobs (state, end_time, job_id COLLATE "C") WHERE end_time IS NOT NULL;
CREATE INDEX jobs_by_labels ON jobs USING gin (labels jsonb_path_ops);

-- The end is dated while its transaction holds a lock that names a second which is not later, so that whoever lists ends
-- can see from which moment on one may still be under way, and goes no further: a transaction that began to end a job
-- early and commits late is not passed over. Done here, it holds for everybody who ends a job, a person in psql as well.
-- 4841 is the class of these locks; seconds are counted from 2020 on, to fit for longer.
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

-- The moment before which every end is committed, and seen by every statement that begins after this one. (Locks are
-- given up only after a commit can be seen.)
CREATE FUNCTION ends_settled() RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    asked CONSTANT timestamptz := clock_timestamp();
    earliest CONSTANT bigint := (
        SELECT min(objid::bigint) FROM pg_locks
        WHERE locktype = 'advisory' AND classid = 4841 AND objsubid = 2
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database()));
BEGIN
    RETURN least(asked, to_timestamp(earliest + 1577836800));
END $$;

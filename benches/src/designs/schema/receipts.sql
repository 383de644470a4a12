-- One row per counted result, in addition to the counters, so that no result is counted twice.
CREATE TABLE receipts (
    job_id text NOT NULL,
    stage  smallint NOT NULL,
    task   bigint NOT NULL,
    failed boolean NOT NULL,
    PRIMARY KEY (job_id, stage, task)
);

-- Counts the new results of a report, in one round trip. Inserting the receipts first keeps the lock on the job's row
-- short: from the update to the commit. If the job is not running, the error rolls the receipts back, and nothing is
-- counted.
CREATE FUNCTION report(id text, tasks bigint[], stages smallint[], failures boolean[]) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    fresh bigint[];
    state_now text;
BEGIN
    WITH inserted AS (
        INSERT INTO receipts (job_id, task, stage, failed)
        SELECT id, reported.task, reported.stage, reported.failed
        FROM unnest(tasks, stages, failures) AS reported (task, stage, failed)
        ON CONFLICT DO NOTHING
        RETURNING stage, failed
    )
    SELECT ARRAY[
        count(*) FILTER (WHERE stage = 0 AND NOT failed), count(*) FILTER (WHERE stage = 0 AND failed),
        count(*) FILTER (WHERE stage = 1 AND NOT failed), count(*) FILTER (WHERE stage = 1 AND failed),
        count(*) FILTER (WHERE stage = 2 AND NOT failed), count(*) FILTER (WHERE stage = 2 AND failed)]
    INTO fresh FROM inserted;
    IF 0 = ALL (fresh) THEN
        -- All results are duplicates, so the contended row is not updated.
        SELECT state INTO state_now FROM jobs WHERE job_id = id;
        RETURN state_now;
    END IF;
    state_now := count_fresh(id, fresh[1], fresh[2], fresh[3], fresh[4], fresh[5], fresh[6]);
    IF state_now IS NULL THEN
        RAISE EXCEPTION 'the job is not running' USING ERRCODE = 'HW001';
    END IF;
    RETURN state_now;
END
$$;

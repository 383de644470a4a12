-- A job whose progress is a column for each count.
CREATE TABLE jobs (
    job_id            text PRIMARY KEY,
    state             text NOT NULL DEFAULT 'RUNNING',
    task_count        bigint NOT NULL,
    fetch_succeeded   bigint NOT NULL DEFAULT 0,
    fetch_failed      bigint NOT NULL DEFAULT 0,
    process_succeeded bigint NOT NULL DEFAULT 0,
    process_failed    bigint NOT NULL DEFAULT 0,
    upload_succeeded  bigint NOT NULL DEFAULT 0,
    upload_failed     bigint NOT NULL DEFAULT 0
) WITH (
    -- Nothing that changes is indexed, and each page has room for new versions of its rows: so every write is a HOT
    -- update, which touches no index and is cleared away by the next one that needs the room.
    fillfactor = 50
);

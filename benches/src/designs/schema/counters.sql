-- Jobs whose progress is a column per count.
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
    -- Pages have room for new row versions, and no column that changes is indexed, so every update is a HOT update: it
    -- changes no index, and a later update of the page removes its dead row version.
    fillfactor = 50
);

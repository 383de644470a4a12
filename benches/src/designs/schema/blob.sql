-- Jobs whose progress is one JSON blob, which each handler reads, changes and writes back.
CREATE TABLE jobs (
    job_id     text PRIMARY KEY,
    state      text NOT NULL DEFAULT 'RUNNING',
    task_count bigint NOT NULL,
    -- json instead of jsonb, because no statement accesses its fields, and jsonb would be parsed on every write.
    progress   json NOT NULL
) WITH (
    -- Pages have room for new row versions, and no column that changes is indexed, so every update is a HOT update: it
    -- changes no index, and a later update of the page removes its dead row version.
    fillfactor = 50
);

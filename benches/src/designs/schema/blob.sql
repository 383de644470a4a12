-- A job whose progress is one blob, which each handler reads, changes and writes back.
CREATE TABLE jobs (
    job_id     text PRIMARY KEY,
    state      text NOT NULL DEFAULT 'RUNNING',
    task_count bigint NOT NULL,
    -- json, not jsonb: SQL never looks into it, so nothing is gained by taking it apart on every write.
    progress   json NOT NULL
) WITH (
    -- Nothing that changes is indexed, and each page has room for new versions of its rows: so every write is a HOT
    -- update, which touches no index and is cleared away by the next one that needs the room.
    fillfactor = 50
);

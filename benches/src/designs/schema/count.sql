UPDATE jobs SET
    fetch_succeeded = fetch_succeeded + $2, fetch_failed = fetch_failed + $3,
    process_succeeded = process_succeeded + $4, process_failed = process_failed + $5,
    upload_succeeded = upload_succeeded + $6, upload_failed = upload_failed + $7,
    state = CASE
        WHEN fetch_succeeded + $2 + fetch_failed + $3 < task_count
            OR process_succeeded + $4 + process_failed + $5 + fetch_failed + $3 < task_count
            OR upload_succeeded + $6 + upload_failed + $7 + process_failed + $5 + fetch_failed + $3 < task_count
            THEN 'RUNNING'
        WHEN (upload_failed + $7 + process_failed + $5 + fetch_failed + $3) * 2 > task_count THEN 'FAILED'
        ELSE 'SUCCEEDED' END
WHERE job_id = $1 AND state = 'RUNNING'
RETURNING state

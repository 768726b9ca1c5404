-- Have texts read in this transaction as the flush has them read. Its isolation level, and what was set before, to put back
-- afterwards. Parameters: time zone and search path of the pipeline's own sessions.
WITH before AS MATERIALIZED (
    SELECT current_setting('transaction_isolation') AS isolation,
           current_setting('lock_timeout') AS lock_timeout,
           current_setting('datestyle') AS datestyle,
           current_setting('intervalstyle') AS intervalstyle,
           current_setting('TimeZone') AS timezone,
           current_setting('search_path') AS search_path
)
SELECT isolation, lock_timeout, datestyle, intervalstyle, timezone, search_path
FROM before
WHERE set_config('datestyle', 'ISO', true) || set_config('intervalstyle', 'postgres', true)
      || set_config('TimeZone', %s, true) || set_config('search_path', %s, true) || datestyle <> ''

-- Have texts read in this transaction as the flush has them read. What was set before, to put back afterwards.
WITH before AS MATERIALIZED (
    SELECT current_setting('lock_timeout') AS lock_timeout,
           current_setting('datestyle') AS datestyle,
           current_setting('intervalstyle') AS intervalstyle
)
SELECT lock_timeout, datestyle, intervalstyle
FROM before
WHERE set_config('datestyle', 'ISO', true) || set_config('intervalstyle', 'postgres', true) || datestyle <> ''

-- The flights that were played: the first ones by schedule. A flight without departure time was cancelled.
INSERT INTO expected.played
SELECT *
FROM (
    SELECT
        *,
        time_hour + make_interval(mins => minute),
        CASE WHEN dep_time IS NOT NULL THEN time_hour + make_interval(mins => minute + dep_delay) END,
        row_number() OVER (ORDER BY time_hour, minute, carrier, flight, origin) AS n
    FROM expected.csv
) AS flights
WHERE n <= %(flights)s

-- What the application's tables must contain, and which dead letters there must be. `found` has what there is, in the
-- same columns; everything in the two schemas with the same name must be equal, as multisets.

CREATE SCHEMA found;

CREATE VIEW expected.flight AS
SELECT year, month, day, carrier, flight, origin,
       tailnum, dest, distance AS miles, scheduled, departed, dep_delay, arr_delay
FROM expected.played
WHERE dep_time IS NOT NULL;

CREATE VIEW found.flight AS
SELECT year, month, day, carrier, flight, origin,
       tailnum, dest, miles, scheduled, departed, dep_delay, arr_delay
FROM public.flight;

CREATE VIEW expected.airport_day AS
SELECT airport, day,
       sum(departures) AS departures, sum(arrivals) AS arrivals, sum(cancellations) AS cancellations,
       coalesce(sum(delay_minutes), 0) AS delay_minutes, sum(miles) AS miles, max(delay_minutes) AS longest_delay
FROM (
    SELECT origin, make_date(year, month, day), 1, 0, 0, dep_delay, distance
    FROM expected.played WHERE dep_time IS NOT NULL
    UNION ALL
    SELECT origin, make_date(year, month, day), 0, 0, 1, NULL, 0
    FROM expected.played WHERE dep_time IS NULL
    UNION ALL
    SELECT dest, make_date(year, month, day), 0, 1, 0, NULL, 0
    FROM expected.played WHERE arr_time IS NOT NULL
) AS counted (airport, day, departures, arrivals, cancellations, delay_minutes, miles)
GROUP BY airport, day;

CREATE VIEW found.airport_day AS
SELECT airport, day, departures, arrivals, cancellations, delay_minutes, miles, longest_delay
FROM public.airport_day;

-- The place as the last one by schedule says, the time as the latest departure says.
CREATE VIEW expected.aircraft AS
SELECT DISTINCT ON (tailnum)
       tailnum, dest AS bound_for, carrier, flight, max(departed) OVER (PARTITION BY tailnum) AS last_seen
FROM expected.played
WHERE dep_time IS NOT NULL
ORDER BY tailnum, n DESC;

CREATE VIEW found.aircraft AS
SELECT tailnum, bound_for, carrier, flight, last_seen FROM public.aircraft;

CREATE VIEW expected.flight_log AS
SELECT 'departed' AS entry, departed AS at, year, month, day, carrier, flight, origin, tailnum
FROM expected.played WHERE dep_time IS NOT NULL
UNION ALL
SELECT 'cancelled', scheduled, year, month, day, carrier, flight, origin, tailnum
FROM expected.played WHERE dep_time IS NULL AND tailnum IS NOT NULL
UNION ALL
SELECT 'day closed', max(scheduled), year, month, day, NULL, NULL, NULL, NULL
FROM expected.played GROUP BY year, month, day;

CREATE VIEW found.flight_log AS
SELECT entry, at, year, month, day, carrier, flight, origin, tailnum FROM public.flight_log;

-- A dead letter keeps the Celery message as it was; its body is [args, kwargs, options] as JSON text.
CREATE VIEW expected.dead_letter AS
SELECT 'flight' AS table_name, '23502' AS sqlstate, year, month, day, carrier, flight, origin
FROM expected.played WHERE tailnum IS NULL;

CREATE VIEW found.dead_letter AS
SELECT table_name, sqlstate,
       (key ->> 'year')::integer AS year, (key ->> 'month')::integer AS month, (key ->> 'day')::integer AS day,
       key ->> 'carrier' AS carrier, (key ->> 'flight')::integer AS flight, key ->> 'origin' AS origin
FROM (
    SELECT table_name, sqlstate, (convert_from(message, 'UTF8')::jsonb ->> 'body')::jsonb #> '{1,key}' AS key
    FROM pipeline.dead_letter
) AS letters;

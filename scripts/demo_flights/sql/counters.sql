-- Every counter of every airport and day: how much is missing, how much is too much.
SELECT
    counter,
    coalesce(sum(e), 0)::bigint AS expected,
    coalesce(sum(f), 0)::bigint AS found,
    sum(greatest(coalesce(e, 0) - coalesce(f, 0), 0))::bigint AS missing,
    sum(greatest(coalesce(f, 0) - coalesce(e, 0), 0))::bigint AS surplus
FROM expected.airport_day AS expected
FULL JOIN found.airport_day AS found USING (airport, day)
CROSS JOIN LATERAL (
    VALUES
        (1, 'departures', expected.departures, found.departures),
        (2, 'arrivals', expected.arrivals, found.arrivals),
        (3, 'cancellations', expected.cancellations, found.cancellations),
        (4, 'minutes of delay', expected.delay_minutes, found.delay_minutes),
        (5, 'miles', expected.miles, found.miles)
) AS counters (place, counter, e, f)
GROUP BY place, counter
ORDER BY place

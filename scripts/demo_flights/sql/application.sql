-- The application's tables.

CREATE TABLE flight (
    year      smallint,
    month     smallint,
    day       smallint,
    carrier   text,
    flight    integer,
    origin    text,
    tailnum   text        NOT NULL,  -- the flights without one become dead letters
    dest      text        NOT NULL,
    miles     integer     NOT NULL,
    scheduled timestamptz NOT NULL,
    departed  timestamptz,
    dep_delay integer,
    arr_delay integer,
    PRIMARY KEY (year, month, day, carrier, flight, origin)
);

CREATE TABLE airport_day (
    airport       text,
    day           date,
    departures    integer NOT NULL DEFAULT 0,
    arrivals      integer NOT NULL DEFAULT 0,
    cancellations integer NOT NULL DEFAULT 0,
    delay_minutes bigint  NOT NULL DEFAULT 0,
    miles         bigint  NOT NULL DEFAULT 0,
    longest_delay integer,
    PRIMARY KEY (airport, day)
);

CREATE TABLE aircraft (
    tailnum   text PRIMARY KEY,
    bound_for text        NOT NULL,
    carrier   text        NOT NULL,
    flight    integer     NOT NULL,
    last_seen timestamptz NOT NULL
);

CREATE TABLE flight_log (
    id      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entry   text        NOT NULL,
    at      timestamptz NOT NULL,
    year    smallint    NOT NULL,
    month   smallint    NOT NULL,
    day     smallint    NOT NULL,
    carrier text,
    flight  integer,
    origin  text,
    tailnum text
);

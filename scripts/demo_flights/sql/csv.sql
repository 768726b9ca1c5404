-- The CSV file as it is; the schema `expected` shares nothing with the pipeline, nor with the application's Python.

CREATE SCHEMA expected;

CREATE UNLOGGED TABLE expected.csv (
    year           integer,
    month          integer,
    day            integer,
    dep_time       integer,
    sched_dep_time integer,
    dep_delay      integer,
    arr_time       integer,
    sched_arr_time integer,
    arr_delay      integer,
    carrier        text COLLATE "C",
    flight         integer,
    tailnum        text,
    origin         text COLLATE "C",
    dest           text,
    air_time       integer,
    distance       integer,
    hour           integer,
    minute         integer,
    time_hour      timestamptz
);

CREATE UNLOGGED TABLE expected.played (
    LIKE expected.csv,
    scheduled timestamptz,
    departed  timestamptz,
    n         integer
);

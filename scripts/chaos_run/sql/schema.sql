-- The application's tables. Every table has label, small and word, so that an event can be poisoned in several ways;
-- no good event touches them.

-- Who was applied, how often: no unique index, so that an event that was applied twice stands here twice.
CREATE TABLE witness (
    event_id text NOT NULL,
    label text NOT NULL DEFAULT 'l', small int CHECK (small >= 0), word varchar(10)
);

-- The same, for events that consist of nothing else.
CREATE TABLE audit (
    event_id text NOT NULL,
    payload text NOT NULL,
    label text NOT NULL DEFAULT 'l', small int CHECK (small >= 0), word varchar(10)
);

-- Rows whose own state says which of their events were applied: event i adds 4^i to tally.
CREATE TABLE cell (
    key text PRIMARY KEY,
    tally bigint NOT NULL DEFAULT 0,
    ops bigint NOT NULL DEFAULT 0,
    last int,
    label text NOT NULL DEFAULT 'l', small int CHECK (small >= 0), word varchar(10)
);

-- Rows of one producer each, on which order shows.
CREATE TABLE profile (
    key text PRIMARY KEY,
    note text NOT NULL DEFAULT 'new',
    score bigint NOT NULL DEFAULT 0,
    amount numeric NOT NULL DEFAULT 0,
    hi bigint,
    lo bigint,
    label text NOT NULL DEFAULT 'l', small int CHECK (small >= 0), word varchar(10)
);

-- Rows that all producers write; only with what commutes.
CREATE TABLE counter (
    id int PRIMARY KEY,
    n bigint NOT NULL DEFAULT 0,
    hi bigint,
    lo bigint,
    label text NOT NULL DEFAULT 'l', small int CHECK (small >= 0), word varchar(10)
);
CREATE TABLE stock (
    site text,
    sku int,
    amount numeric NOT NULL DEFAULT 0,
    moves int DEFAULT 0,
    label text NOT NULL DEFAULT 'l', small int CHECK (small >= 0), word varchar(10),
    PRIMARY KEY (site, sku)
);

-- A parent and its children, written by one event.
CREATE TABLE orders (
    id text PRIMARY KEY,
    total numeric NOT NULL,
    label text NOT NULL DEFAULT 'l', small int CHECK (small >= 0), word varchar(10)
);
CREATE TABLE item (
    order_id text REFERENCES orders (id),
    line int,
    quantity int NOT NULL,
    label text NOT NULL DEFAULT 'l', small int CHECK (small >= 0), word varchar(10),
    PRIMARY KEY (order_id, line)
);

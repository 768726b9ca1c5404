-- The ledger and the dead letters. Every statement of the pipeline names this schema; nothing depends on search_path.

CREATE TABLE pipeline.shard (
    namespace    text        NOT NULL,
    shard        integer     NOT NULL,
    seq          bigint      NOT NULL DEFAULT 0,  -- of the last applied batch
    batch_id     uuid,                            -- of the last applied batch
    recheck_from bigint,                          -- Redis went back in time: look up event ids from this batch
    recheck_to   bigint,                          -- to this one
    recheck_until timestamptz,                    -- and until then
    store_gaps   integer     NOT NULL DEFAULT 0,  -- times this database was found older than Redis
    applied_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (namespace, shard)
);
COMMENT ON TABLE pipeline.shard IS
    'One row per lane. Its row lock fences flushers; its seq says which batch was applied last.';

CREATE TABLE pipeline.batch (
    namespace  text        NOT NULL,
    shard      integer     NOT NULL,
    seq        bigint      NOT NULL,
    batch_id   uuid        NOT NULL UNIQUE,
    event_ids  text[]      NOT NULL,              -- applied and dead-lettered alike
    row_count  integer     NOT NULL,
    dead_count integer     NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (namespace, shard, seq)
);
COMMENT ON TABLE pipeline.batch IS 'The ledger: one row per applied batch, kept for PIPELINE_LEDGER_RETENTION.';
CREATE INDEX batch_applied_at ON pipeline.batch (applied_at);

CREATE TABLE pipeline.dead_letter (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace   text        NOT NULL,
    shard       integer     NOT NULL,
    batch_id    uuid        NOT NULL,
    event_id    text,
    table_name  text,
    status      text        NOT NULL DEFAULT 'dead' CHECK (status IN ('dead', 'replayed', 'discarded')),
    reason      text        NOT NULL,
    sqlstate    text,
    attempts    integer     NOT NULL,
    accepted_at timestamptz,
    dead_at     timestamptz NOT NULL DEFAULT now(),
    message     bytea       NOT NULL              -- the Celery message as it was, byte for byte
);
COMMENT ON TABLE pipeline.dead_letter IS 'Events that could not be applied, until they are replayed or discarded.';
CREATE INDEX dead_letter_status ON pipeline.dead_letter (namespace, status, id);
CREATE INDEX dead_letter_batch ON pipeline.dead_letter (batch_id);

CREATE TABLE pipeline.replay (
    id             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dead_letter_id bigint      NOT NULL REFERENCES pipeline.dead_letter (id) ON DELETE CASCADE,
    action         text        NOT NULL CHECK (action IN ('replay', 'discard')),
    event_id       text        NOT NULL,          -- of the event that was written again
    forced         boolean     NOT NULL,
    actor          text        NOT NULL,
    happened_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE pipeline.replay IS 'Who did what to which dead letter.';
CREATE INDEX replay_dead_letter ON pipeline.replay (dead_letter_id);

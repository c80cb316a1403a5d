-- Times are microseconds since 1970, UTC, and spans of time are microseconds.

-- The lists of runners that are polled.
CREATE TABLE runner_sources (
    name         TEXT    NOT NULL PRIMARY KEY,
    provider     TEXT    NOT NULL CHECK (provider IN ('github', 'gitlab')),
    polled_at    INTEGER NOT NULL,
    -- The last poll that told of all runners, and until when they count as known by it.
    succeeded_at INTEGER,
    heard_until  INTEGER,
    -- The polls since then, and what the last of them came to.
    failures     INTEGER NOT NULL CHECK (failures >= 0),
    error        TEXT,
    -- Whether somebody was told that the source can't be reached.
    unreachable  INTEGER NOT NULL CHECK (unreachable IN (0, 1)),
    not_before   INTEGER,
    CHECK ((succeeded_at IS NULL) = (heard_until IS NULL)),
    CHECK ((failures = 0) = (error IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE runners (
    id              BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    source          TEXT    NOT NULL REFERENCES runner_sources (name),
    -- What the source said of it last.
    external_id     TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    os              TEXT,
    -- A JSON array of texts.
    labels          TEXT    NOT NULL,
    online          INTEGER CHECK (online IN (0, 1)),
    status          TEXT    NOT NULL,
    busy            INTEGER CHECK (busy IN (0, 1)),
    paused          INTEGER CHECK (paused IN (0, 1)),
    ephemeral       INTEGER CHECK (ephemeral IN (0, 1)),
    version         TEXT,
    kind            TEXT,
    contacted_at    INTEGER,
    locked          INTEGER CHECK (locked IN (0, 1)),
    -- What follows from that and from what was said before.
    first_seen      INTEGER NOT NULL,
    confirmed       INTEGER CHECK (confirmed IN (0, 1)),
    differing       INTEGER NOT NULL CHECK (differing >= 0),
    differing_since INTEGER,
    missing         INTEGER NOT NULL CHECK (missing IN (0, 1)),
    changes         INTEGER NOT NULL,
    flapping        INTEGER NOT NULL CHECK (flapping IN (0, 1)),
    -- The newest entry of its history.
    state           TEXT    NOT NULL CHECK (state IN ('online', 'offline', 'unknown', 'removed')),
    since           INTEGER NOT NULL,
    online_before   INTEGER NOT NULL CHECK (online_before >= 0),
    known_before    INTEGER NOT NULL CHECK (known_before >= online_before),
    UNIQUE (source, external_id)
) STRICT, WITHOUT ROWID;

-- With the state, so that it says by itself whether a runner is listed.
CREATE INDEX runners_present ON runners (name, id, state) WHERE state <> 'removed';
CREATE INDEX runners_removed ON runners (since, id) WHERE state = 'removed';

-- What became of each runner, with how long it had been online, and known, until then: two rows tell of any window.
CREATE TABLE runner_history (
    runner        BLOB    NOT NULL REFERENCES runners (id) ON DELETE CASCADE,
    at            INTEGER NOT NULL,
    state         TEXT    NOT NULL CHECK (state IN ('online', 'offline', 'unknown', 'removed')),
    online_before INTEGER NOT NULL CHECK (online_before >= 0),
    known_before  INTEGER NOT NULL CHECK (known_before >= online_before),
    PRIMARY KEY (runner, at)
) STRICT, WITHOUT ROWID;

-- What alerts have to tell, to whom: a row for each event and each alert. An id is never used again.
CREATE TABLE deliveries (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    event        BLOB    NOT NULL CHECK (length(event) = 16),
    -- The name of the alert in the configuration.
    alert        TEXT    NOT NULL,
    type         TEXT    NOT NULL,
    -- What the event is about. What is told of one subject is told in order.
    subject      TEXT    NOT NULL,
    at           INTEGER NOT NULL,
    content_type TEXT    NOT NULL,
    body         BLOB    NOT NULL,
    -- 'waiting' is behind another one of its alert and subject that is 'due'.
    state        TEXT    NOT NULL CHECK (state IN ('due', 'waiting', 'done', 'dead')),
    next_at      INTEGER,
    attempts     INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- What the last attempt came to.
    status       INTEGER CHECK (status BETWEEN 100 AND 999),
    error        TEXT,
    settled_at   INTEGER,
    UNIQUE (alert, event),
    CHECK ((state = 'due') = (next_at IS NOT NULL)),
    CHECK ((state IN ('done', 'dead')) = (settled_at IS NOT NULL))
) STRICT;

CREATE INDEX deliveries_due ON deliveries (alert, next_at) WHERE state = 'due';
CREATE INDEX deliveries_open ON deliveries (alert, subject, id) WHERE state IN ('due', 'waiting');
CREATE INDEX deliveries_dead ON deliveries (id) WHERE state = 'dead';
CREATE INDEX deliveries_settled ON deliveries (settled_at) WHERE state IN ('done', 'dead');

-- Times are microseconds since 1970, UTC. Ids are the 16 bytes of a UUID, or of systemd's invocation id.

CREATE TABLE runs (
    id           BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    job          TEXT    NOT NULL,
    -- The name of the token that asked for it; NULL if a timer, another unit or an administrator started it.
    started_by   TEXT,
    request      BLOB    CHECK (length(request) = 16),
    requested_at INTEGER NOT NULL,
    invocation   BLOB    CHECK (length(invocation) = 16),
    started_at   INTEGER,
    phase        TEXT    NOT NULL CHECK (phase IN ('queued', 'running', 'ended')),
    ended_at     INTEGER,
    result       TEXT,
    exit_code    INTEGER CHECK (exit_code BETWEEN 0 AND 255),
    signal       INTEGER CHECK (signal > 0),
    cpu_usec     INTEGER CHECK (cpu_usec >= 0),
    memory_peak  INTEGER CHECK (memory_peak >= 0),
    -- Why nobody knows the result.
    lost         TEXT,
    log          TEXT    NOT NULL CHECK (log IN ('journal', 'archive')),
    log_complete INTEGER NOT NULL CHECK (log_complete IN (0, 1)),
    CHECK ((started_by IS NULL) = (request IS NULL)),
    CHECK ((phase = 'ended') = (result IS NOT NULL)),
    CHECK (exit_code IS NULL OR signal IS NULL),
    CHECK (lost IS NULL OR result = 'lost')
) STRICT, WITHOUT ROWID;

CREATE INDEX runs_of_job ON runs (job, requested_at, id);
CREATE INDEX runs_by_age ON runs (requested_at, id);
CREATE UNIQUE INDEX runs_by_invocation ON runs (invocation) WHERE invocation IS NOT NULL;
CREATE INDEX runs_by_request ON runs (request) WHERE request IS NOT NULL;
CREATE INDEX runs_not_ended ON runs (requested_at, id) WHERE phase <> 'ended';

-- Runs that wait for their job, in the order of `place`.
CREATE TABLE queue (
    place    INTEGER PRIMARY KEY AUTOINCREMENT,
    run      BLOB    NOT NULL UNIQUE REFERENCES runs (id) ON DELETE CASCADE,
    -- Whether it is about to be started.
    starting INTEGER NOT NULL DEFAULT 0 CHECK (starting IN (0, 1))
) STRICT;

-- Rows are only added, and forgotten by age. An id is never used again.
CREATE TABLE audit (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    kind    TEXT    NOT NULL,
    who     TEXT,
    address TEXT,
    request BLOB    CHECK (length(request) = 16),
    job     TEXT,
    run     BLOB    CHECK (length(run) = 16),
    outcome TEXT    NOT NULL,
    -- What else there is to say, for people.
    detail  TEXT
) STRICT;

CREATE INDEX audit_of_kind ON audit (kind);
CREATE INDEX audit_of_who ON audit (who) WHERE who IS NOT NULL;
CREATE INDEX audit_of_job ON audit (job) WHERE job IS NOT NULL;
CREATE INDEX audit_of_run ON audit (run) WHERE run IS NOT NULL;

-- Without a status the request is still under way.
CREATE TABLE idempotency (
    token      TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    request    BLOB    NOT NULL CHECK (length(request) = 16),
    payload    BLOB    NOT NULL CHECK (length(payload) = 32),
    created_at INTEGER NOT NULL,
    status     INTEGER CHECK (status BETWEEN 100 AND 599),
    -- A JSON array of pairs.
    headers    TEXT,
    body       BLOB,
    PRIMARY KEY (token, key),
    CHECK ((status IS NULL) = (headers IS NULL) AND (status IS NULL) = (body IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_by_age ON idempotency (created_at);

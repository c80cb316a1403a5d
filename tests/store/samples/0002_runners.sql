-- What a version with the second migration may have recorded.

INSERT INTO runner_sources (
    name, provider, polled_at, succeeded_at, heard_until, failures, error, unreachable, not_before
) VALUES
    ('acme', 'github', 1767225660000000, 1767225660000000, 1767225720000000, 0, NULL, 0, NULL),
    ('lab', 'gitlab', 1767225660000000, NULL, NULL, 3, 'timeout', 1, 1767226000000000);

INSERT INTO runners (
    id, source, external_id, name, os, labels, online, status, busy, paused, ephemeral, version, kind, contacted_at,
    locked, first_seen, confirmed, differing, differing_since, missing, changes, flapping, state, since, online_before,
    known_before
) VALUES
    (
        x'019b76da800080008000000000000001', 'acme', '69', 'build-1', 'linux', '["self-hosted","linux"]', 0, 'offline', 0,
        NULL, 0, '2.330.0', 'organization', NULL, NULL, 1767225600000000, 1, 1, 1767225660000000, 0, 1, 0,
        'offline', 1767225660000000, 60000000, 60000000
    ),
    (
        x'019b76da800080008000000000000002', 'acme', '70', 'build-2', NULL, '[]', NULL, '', NULL,
        NULL, NULL, NULL, NULL, 1767225600000000, NULL, 1767225600000000, NULL, 0, NULL, 0, 0, 0,
        'removed', 1767225660000000, 0, 0
    );

INSERT INTO runner_history (runner, at, state, online_before, known_before) VALUES
    (x'019b76da800080008000000000000001', 1767225600000000, 'online', 0, 0),
    (x'019b76da800080008000000000000001', 1767225660000000, 'offline', 60000000, 60000000),
    (x'019b76da800080008000000000000002', 1767225600000000, 'unknown', 0, 0),
    (x'019b76da800080008000000000000002', 1767225660000000, 'removed', 0, 0);

INSERT INTO deliveries (
    event, alert, type, subject, at, content_type, body, state, next_at, attempts, status, error, settled_at
) VALUES
    (
        x'019b76da800070008000000000000021', 'ops', 'runner.online', '1', 1767225600000000, 'application/json', x'7b7d',
        'done', NULL, 1, 204, NULL, 1767225601000000
    ),
    (
        x'019b76da800070008000000000000022', 'ops', 'runner.offline', '1', 1767225660000000, 'application/json', x'7b7d',
        'due', 1767225665000000, 1, 500, 'the answer has status 500', NULL
    ),
    (
        x'019b76da800070008000000000000023', 'ops', 'runner.removed', '1', 1767225660000000, 'application/json', x'7b7d',
        'waiting', NULL, 0, NULL, NULL, NULL
    ),
    (
        x'019b76da800070008000000000000024', 'old', 'runner.removed', '1', 1767225660000000, 'text/plain', x'68',
        'dead', NULL, 10, NULL, 'cannot connect', 1767225900000000
    );

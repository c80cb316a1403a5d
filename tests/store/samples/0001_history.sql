-- What a version with the first migration may have recorded.

INSERT INTO runs (
    id, job, started_by, request, requested_at, invocation, started_at, phase, ended_at, result, exit_code, signal,
    cpu_usec, memory_peak, lost, log, log_complete
) VALUES
    (
        x'019b76da800070008000000000000001', 'ci-test-build', 'ci', x'019b76da800070008000000000000011', 1767225600000001,
        NULL, NULL, 'ended', NULL, 'lost', NULL, NULL, NULL, NULL, 'the host was restarted', 'journal', 0
    ),
    (
        x'019b76da800070008000000000000002', 'ci-test-build', NULL, NULL, 1767225600000002,
        x'00ff58e842da4a758f6c1cdc7b36dc02', 1767225600000102, 'ended', 1767225600000202, 'oom-kill', NULL, 9,
        1500000, 50000000, NULL, 'journal', 1
    ),
    (
        x'019b76da800070008000000000000003', 'ci-test-build', 'ci', x'019b76da800070008000000000000013', 1767225600000003,
        x'00ff58e842da4a758f6c1cdc7b36dc03', 1767225600000103, 'ended', 1767225600000203, 'success', 0, NULL,
        1500000, 50000000, NULL, 'archive', 1
    ),
    (
        x'019b76da800070008000000000000004', 'ci-test-build', 'ci', x'019b76da800070008000000000000014', 1767225600000004,
        x'00ff58e842da4a758f6c1cdc7b36dc04', 1767225600000104, 'running', NULL, NULL, NULL, NULL,
        NULL, NULL, NULL, 'journal', 0
    ),
    (
        x'019b76da800070008000000000000005', 'ci-test-build', 'ci', x'019b76da800070008000000000000015', 1767225600000005,
        NULL, NULL, 'queued', NULL, NULL, NULL, NULL,
        NULL, NULL, NULL, 'journal', 0
    ),
    (
        x'019b76da800070008000000000000006', 'ci-test-build@feature-a\x20b', NULL, NULL, 1767225600000006,
        x'00ff58e842da4a758f6c1cdc7b36dc06', 1767225600000106, 'running', NULL, NULL, NULL, NULL,
        NULL, NULL, NULL, 'journal', 0
    );

INSERT INTO queue (run) VALUES (x'019b76da800070008000000000000005');

INSERT INTO audit (at, kind, who, address, request, job, run, outcome, detail) VALUES
    (
        1767225600000000, 'start', 'ci', '2001:db8::1', x'019b76da800070008000000000000011', 'ci-test-build',
        x'019b76da800070008000000000000001', 'accepted', NULL
    ),
    (1767225600000000, 'token', 'nightly', NULL, NULL, NULL, NULL, 'added', 'ro');

INSERT INTO idempotency (token, key, request, payload, created_at, status, headers, body) VALUES
    (
        'ci', 'answered', x'019b76da800070008000000000000011', zeroblob(32), 1767225600000000,
        202, '[["location","/api/runs/1"]]', x'7b7d'
    ),
    ('ci', 'under way', x'019b76da800070008000000000000012', zeroblob(32), 1767225600000000, NULL, NULL, NULL);

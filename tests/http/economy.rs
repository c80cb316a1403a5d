//! What reading costs systemd.

use std::time::Instant;

use crate::bridge::Bridge;
use crate::systemd1::{Exit, Start, Unit};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_looks_at_known_jobs_cost_no_call() {
    let ended = Unit::starting("ci-test-ended", Start::EndsBeforeReply(Exit::Code(3)));
    let bridge = Bridge::new(vec![Unit::job("ci-test-running"), ended, Unit::job("ci-test-idle")]).await;
    bridge.start("ci-test-running").await;
    bridge.start("ci-test-ended").await;
    bridge.systemd.take_calls();
    for number in 0..1000 {
        let job = ["ci-test-running", "ci-test-ended", "ci-test-idle"][number % 3];
        assert_eq!(bridge.call(&format!("GET /api/job/{job}/state")).await.status, 200);
    }
    // What the run used is asked for once, after its end.
    let calls = bridge.systemd.take_calls();
    assert!(calls.is_empty() || calls == ["GetAll ci-test-ended.service"], "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_at_what_systemd_does_not_have_in_memory_cost_a_call_a_second() {
    let bridge = Bridge::new(vec![Unit { loaded: false, ..Unit::job("ci-test-file") }]).await;
    let begun = Instant::now();
    for number in 0..1000 {
        let (job, status) =
            if number % 2 == 0 { ("ci-test-file".to_owned(), 200) } else { (format!("ci-test-nope{number}"), 404) };
        assert_eq!(bridge.call(&format!("GET /api/job/{job}/state")).await.status, status);
        if number % 100 == 0 {
            assert_eq!(bridge.call("GET /api/jobs").await.status, 200);
        }
    }
    let calls = bridge.systemd.take_calls();
    assert!(calls.iter().all(|call| call == "ListUnitFilesByPatterns"), "{calls:?}");
    assert!(calls.len() as u64 <= begun.elapsed().as_secs() + 1, "{} calls", calls.len());
}

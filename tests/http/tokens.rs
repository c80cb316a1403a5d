//! Tokens: where they may stand, what each is refused for, and that none ever shows.

use ci_bridge::auth::{Access, Token};
use ci_bridge::config::QueryTokens;

use crate::bridge::{Bridge, FOREIGN, Setup};
use crate::logged;
use crate::systemd1::Unit;

const JOB: &str = "/api/job/ci-test-a";

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_token_is_refused_with_its_own_code_and_without_a_call() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let tokens = &bridge.tokens;
    let bearer = |token: &str| vec![format!("Bearer {token}")];
    let last = if tokens.writer.ends_with('0') { "1" } else { "0" };
    let damaged = format!("{}{last}", &tokens.writer[..tokens.writer.len() - 1]);
    let unknown = Token::generate(Access::ReadWrite).unwrap().expose().to_owned();
    let cases: Vec<(&str, Vec<String>, u16, &str)> = vec![
        ("none", vec![], 401, "token_missing"),
        ("two headers", [bearer(&tokens.writer), bearer(&tokens.writer)].concat(), 400, "authorization_twice"),
        ("Basic", vec!["Basic dXNlcjpwYXNz".to_owned()], 401, "authorization_scheme"),
        ("no scheme", vec![tokens.writer.clone()], 401, "authorization_scheme"),
        ("a scheme alone", vec!["Bearer".to_owned()], 401, "authorization_scheme"),
        ("an empty header", vec![String::new()], 401, "authorization_scheme"),
        ("bytes of no text", vec!["Bearer caf\u{e9}".to_owned()], 401, "authorization_scheme"),
        ("damaged", bearer(&damaged), 401, "token_malformed"),
        ("cut off", bearer(&tokens.writer[..20]), 401, "token_malformed"),
        ("with quotes", bearer(&format!("\"{}\"", tokens.writer)), 401, "token_unknown"),
        ("10 kB of our kind", bearer(&format!("cib_rw_{}", "x".repeat(10_000))), 401, "token_malformed"),
        ("10 kB of another kind", bearer(&"x".repeat(10_000)), 401, "token_unknown"),
        ("unknown", bearer(&unknown), 401, "token_unknown"),
        ("expired", bearer(&tokens.expired), 401, "token_expired"),
        ("revoked", bearer(&tokens.revoked), 401, "token_revoked"),
        ("not valid yet", bearer(&tokens.early), 401, "token_not_yet_valid"),
    ];
    for (case, headers, status, code) in &cases {
        let headers: Vec<_> = headers.iter().map(|value| ("Authorization", value.as_str())).collect();
        for request in [format!("POST {JOB}"), format!("GET {JOB}/state"), "GET /api/jobs".to_owned()] {
            let answer = bridge.call_with(&request, &headers).await;
            assert_eq!(answer.problem(), (*status, (*code).to_owned()), "{case}");
            let asks = answer.header("www-authenticate");
            assert_eq!(asks.is_some_and(|asks| asks.starts_with("Bearer")), *status == 401, "{case}: {answer:?}");
        }
    }
    assert_eq!(bridge.systemd.take_calls(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheme_may_be_written_in_any_case() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR "] {
        let value = format!("{scheme} {}", bridge.tokens.reader);
        let answer = bridge.call_with(&format!("GET {JOB}/state"), &[("authorization", &value)]).await;
        assert_eq!(answer.status, 200, "{scheme}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_make_works_by_its_hash() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    assert_eq!(bridge.call_as(FOREIGN, &format!("GET {JOB}/state")).await.status, 200);
    let escaped = FOREIGN.replace('/', "%2F").replace('+', "%2B").replace('=', "%3D");
    assert_eq!(bridge.call_with(&format!("POST {JOB}?token={escaped}"), &[]).await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_the_url_is_taken_as_the_administrator_decided() {
    for (mode, reads, writes) in [
        (QueryTokens::Allow, [200, 200], [403, 202]),
        (QueryTokens::ReadOnly, [200, 400], [403, 400]),
        (QueryTokens::Deny, [400, 400], [400, 400]),
    ] {
        let setup = Setup { query_tokens: mode, ..Setup::default() };
        let bridge = Bridge::with(vec![Unit::job("ci-test-a")], setup).await;
        let tokens = [bridge.tokens.reader.as_str(), bridge.tokens.writer.as_str()];
        for (token, (read, write)) in tokens.into_iter().zip(reads.into_iter().zip(writes)) {
            for (request, status) in [
                (format!("GET {JOB}/state?token={token}"), read),
                (format!("GET {JOB}/state?wait=0&token={token}"), read),
                (format!("GET {JOB}/state?token={token}&wait=0"), read),
                (format!("POST {JOB}?token={token}"), write),
            ] {
                let answer = bridge.call_with(&request, &[]).await;
                assert_eq!(answer.status, status, "{mode:?}: {answer:?}");
                if status == 400 {
                    assert_eq!(answer.code(), "token_in_query");
                }
            }
        }
        let started = usize::from(mode == QueryTokens::Allow);
        assert_eq!(bridge.systemd.count("StartUnit"), started, "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_the_url_must_be_a_good_one_too() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let (writer, reader) = (&bridge.tokens.writer, &bridge.tokens.reader);
    for (query, status, code) in [
        ("token=".to_owned(), 401, "token_malformed"),
        ("token".to_owned(), 401, "token_malformed"),
        ("token=nonsense".to_owned(), 401, "token_unknown"),
        (format!("token={}", bridge.tokens.expired), 401, "token_expired"),
        (format!("token={writer}&token={writer}"), 400, "token_twice"),
        (format!("token={reader}&wait=0&token="), 400, "token_twice"),
        (format!("Token={writer}"), 401, "token_missing"),
        (format!("%74oken={writer}"), 401, "token_missing"),
    ] {
        let answer = bridge.call_with(&format!("POST {JOB}?{query}"), &[]).await;
        assert_eq!(answer.problem(), (status, code.to_owned()), "{query}");
    }
    for query in [format!("token={writer}"), format!("token={reader}"), "token=".to_owned()] {
        let answer = bridge.call(&format!("POST {JOB}?{query}")).await;
        assert_eq!(answer.problem(), (400, "token_twice".to_owned()), "{query}");
    }
    assert_eq!(bridge.systemd.take_calls(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_token_cannot_start_or_stop() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    for name in ["ci-test-a", "ci-test-nope", "sshd", "..%2f"] {
        for request in [format!("POST /api/job/{name}"), format!("POST /api/job/{name}/stop")] {
            let answer = bridge.call_as(&bridge.tokens.reader, &request).await;
            assert_eq!(answer.problem(), (403, "read_only_token".to_owned()), "{request}");
        }
    }
    assert_eq!(bridge.systemd.take_calls(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_sees_only_its_own_jobs() {
    let units = vec![
        Unit::job("ci-test-a"),
        Unit::job("ci-test-narrow"),
        Unit::job("ci-test-narrower"),
        Unit::job("sshd"),
        Unit::template("ci-test-build@"),
        Unit::job("ci-test-build@main"),
    ];
    let bridge = Bridge::new(units).await;
    let seen = |answer: crate::wire::Answer| -> Vec<String> {
        let jobs = answer.json()["jobs"].clone();
        jobs.as_array().unwrap().iter().map(|job| job["job"].as_str().unwrap().to_owned()).collect()
    };
    let narrow = seen(bridge.call_as(&bridge.tokens.narrow, "GET /api/jobs").await);
    assert_eq!(narrow, ["ci-test-build@", "ci-test-build@main", "ci-test-narrow"]);
    let all = seen(bridge.call_as(&bridge.tokens.reader, "GET /api/jobs").await);
    assert_eq!(all, ["ci-test-a", "ci-test-build@", "ci-test-build@main", "ci-test-narrow", "ci-test-narrower"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_ever_shows_in_a_log_or_an_answer() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let tokens = &bridge.tokens;
    let unknown = Token::generate(Access::ReadOnly).unwrap().expose().to_owned();
    let secrets =
        [&tokens.writer, &tokens.reader, &tokens.expired, &tokens.revoked, &tokens.early, &unknown].map(String::as_str);
    let secrets = [secrets.as_slice(), &["a-secret-of-the-predecessor"]].concat();
    for secret in &secrets {
        for request in [
            format!("GET {JOB}/state?token={secret}"),
            format!("GET {JOB}/state?token={secret}&nonsense=1"),
            format!("GET {JOB}/state?token={secret}&token={secret}"),
            format!("GET {JOB}/state?%74oken={secret}"),
            format!("GET {JOB}/state?Token={secret}"),
            format!("GET {JOB}/state?wait=0;token={secret}"),
            // Slips of people at a command line.
            format!("GET {JOB}/state&token={secret}"),
            format!("GET {JOB}/state%3Ftoken={secret}"),
            format!("GET {JOB}/state/{secret}"),
            format!("GET /nothing?token={secret}"),
            format!("PUT {JOB}?token={secret}"),
            format!("POST {JOB}?token={secret}"),
            format!("GET http://bridge{JOB}/state?token={secret}"),
        ] {
            for headers in [
                vec![],
                vec![("Authorization", format!("Bearer {secret}"))],
                vec![
                    ("Authorization", format!("Basic {secret}")),
                    ("Referer", format!("http://bridge/?token={secret}")),
                ],
            ] {
                let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let answer = bridge.call_with(&request, &headers).await;
                let shown = format!("{:?} {}", answer.headers, answer.body);
                assert!(!secrets.iter().any(|secret| shown.contains(secret)), "{request}: {shown}");
            }
        }
    }
    let lines = logged::lines();
    assert!(lines.iter().any(|line| line.contains("was answered with 401")), "nothing was logged at all");
    for line in lines {
        assert!(!secrets.iter().any(|secret| line.contains(secret)), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_token_of_a_refused_request() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    bridge.call_as(&bridge.tokens.reader, &format!("POST {JOB}")).await;
    let lines = logged::lines();
    let line = lines.iter().find(|line| line.contains("was answered with 403")).expect("the refusal is not logged");
    assert!(line.contains("reader"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_cannot_fill_the_log() {
    let bridge = Bridge::new(vec![]).await;
    bridge.call_with(&format!("GET /{}%0a%1b[31m\u{85}", "x".repeat(20_000)), &[]).await;
    let lines = logged::lines();
    let line = lines.iter().find(|line| line.contains("GET")).expect("the request is not logged");
    assert!(line.len() < 1000, "{} bytes", line.len());
    assert!(!line.chars().any(char::is_control), "{line:?}");
}

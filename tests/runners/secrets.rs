//! What nobody may read.

use crate::fleet::github::{GitHub, runner};
use crate::fleet::{Fault, Fleet};
use crate::logged;
use crate::support::Watched;

async fn acme() -> Fleet {
    let fleet = Fleet::start().await;
    fleet.world().github = GitHub::acme([runner(1, "r1", "online")]);
    fleet
}

#[tokio::test]
async fn no_error_quotes_an_answer_or_the_token() {
    let fleet = acme().await;
    let mut acme = Watched::acme(&fleet);
    // A service that sends back what it got.
    let echo = r#"{"total_count": "ghp-good", "message": "Bearer ghp-good"}"#;
    for status in [200, 400, 401, 403, 404, 410, 422, 500] {
        fleet.next([Fault::Answer(status, vec![], echo.to_owned())]);
        let poll = acme.poll().await;
        let text = format!("{poll:?} {}", poll.result.as_ref().unwrap_err());
        assert!(!text.contains("ghp-good"), "{text}");
    }
}

#[tokio::test]
async fn no_token_is_logged_at_any_level() {
    logged::capture();
    let fleet = acme().await;
    fleet.world().gitlab.tokens.push("glpat-good".to_owned());
    let (mut acme, mut lab) = (Watched::acme(&fleet), Watched::lab(&fleet, 10));
    acme.seen().await;
    lab.seen().await;
    for fault in [Fault::Html, Fault::Cut, Fault::Answer(500, vec![], String::new())] {
        fleet.next([fault]);
        acme.error().await;
    }
    let lines = logged::lines();
    assert!(lines.iter().any(|line| line.contains("hyper") || line.contains("reqwest")), "{lines:#?}");
    for line in lines {
        assert!(!line.contains("ghp-good") && !line.contains("glpat-good"), "{line}");
    }
}

#[tokio::test]
async fn the_end_of_an_interface_is_logged_once() {
    logged::capture();
    let fleet = acme().await;
    let mut acme = Watched::acme(&fleet);
    let sunset = || Fault::With(vec![("sunset", "Fri, 10 Mar 2028 00:00:00 GMT".to_owned())]);
    fleet.next([sunset(), sunset()]);
    acme.seen().await;
    acme.seen().await;
    let told: Vec<_> = logged::lines().into_iter().filter(|line| line.contains("10 Mar 2028")).collect();
    let [line] = &told[..] else { panic!("{told:?}") };
    assert!(
        line.contains("runners `acme`: the service drops this version of its interface on Fri, 10 Mar 2028"),
        "{line}"
    );
}

//! GitHub: pages, tags, limits, shifting lists, and apps.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use ci_bridge::config::{GitHubAccess, GitHubScope, RunnerList};
use ci_bridge::runners::{Kind, Poll, PollError, Provider, Source};
use jiff::Timestamp;

use crate::fleet::github::{App, GitHub, runner};
use crate::fleet::{Asked, Fault, Fleet};
use crate::support::{SecretFile, Watched, github_list, names, sent, source};

async fn fleet_of(number: u64) -> Fleet {
    let fleet = Fleet::start().await;
    fleet.world().github = GitHub::acme((1..=number).map(|id| runner(id, &format!("r{id}"), "online")));
    fleet
}

fn targets(requests: &[Asked]) -> Vec<&str> {
    requests.iter().map(|request| request.target.as_str()).collect()
}

#[tokio::test]
async fn a_request_carries_what_github_asks_for() {
    let fleet = fleet_of(1).await;
    let mut acme = Watched::acme(&fleet);
    assert_eq!(acme.source.provider(), Provider::GitHub);
    assert_eq!(acme.seen().await[0].kind, Some(Kind::Organization));
    let requests = fleet.requests();
    assert_eq!(targets(&requests), ["/api/v3/orgs/acme/actions/runners?per_page=100"]);
    assert_eq!(requests[0].header("authorization"), Some("Bearer ghp-good"));
    assert_eq!(requests[0].header("accept"), Some("application/vnd.github+json"));
    assert_eq!(requests[0].header("x-github-api-version"), Some("2022-11-28"));
    assert!(requests[0].header("user-agent").unwrap().starts_with("ci-bridge/"));
}

#[tokio::test]
async fn each_scope_has_its_place() {
    let fleet = fleet_of(1).await;
    let token = SecretFile::with("ghp-good");
    for (scope, place, kind) in [
        (
            GitHubScope::Repository { owner: "acme".to_owned(), name: "site".to_owned() },
            "repos/acme/site",
            Kind::Repository,
        ),
        (GitHubScope::Organization("acme".to_owned()), "orgs/acme", Kind::Organization),
        (GitHubScope::Enterprise("acme".to_owned()), "enterprises/acme", Kind::Enterprise),
    ] {
        fleet.world().github.place = place.to_owned();
        let settings = source(&fleet.github_api(), github_list(scope, &token));
        let poll = Source::open(&settings, None).unwrap().poll().await;
        assert_eq!(poll.result.unwrap()[0].kind, Some(kind), "{place}");
    }
}

#[tokio::test]
async fn all_pages_are_read_by_their_links() {
    let fleet = fleet_of(250).await;
    let poll = Watched::acme(&fleet).poll().await;
    assert_eq!(sent(&poll), 3);
    let seen = poll.result.unwrap();
    assert_eq!(seen.len(), 250);
    assert_eq!(seen[249].name, "r250");
    assert_eq!(
        targets(&fleet.requests()),
        [
            "/api/v3/orgs/acme/actions/runners?per_page=100",
            "/api/v3/orgs/acme/actions/runners?per_page=100&page=2",
            "/api/v3/orgs/acme/actions/runners?per_page=100&page=3",
        ]
    );
}

#[tokio::test]
async fn ten_thousand_runners_are_read_one_page_after_the_other() {
    let fleet = fleet_of(10_000).await;
    let poll = Watched::acme(&fleet).poll().await;
    assert_eq!((sent(&poll), poll.result.unwrap().len()), (100, 10_000));
}

#[tokio::test]
async fn an_empty_list_is_a_list() {
    let fleet = fleet_of(0).await;
    assert_eq!(Watched::acme(&fleet).seen().await, []);
}

#[tokio::test]
async fn a_runner_is_what_its_id_says() {
    let fleet = Fleet::start().await;
    fleet.world().github =
        GitHub::acme([runner(5, "twin", "online"), runner(6, "twin", "offline"), runner(7, "odd", "dreaming")]);
    let mut acme = Watched::acme(&fleet);
    let seen = acme.seen().await;
    assert_eq!(names(&seen), [("twin", Some(true)), ("twin", Some(false)), ("odd", Some(false))]);
    assert_eq!(seen[2].status, "dreaming");
    // A new name is the same runner, a new id is another one.
    fleet.world().github.runners = vec![runner(5, "renamed", "online"), runner(8, "twin", "offline")];
    let seen = acme.seen().await;
    let ids: Vec<_> = seen.iter().map(|runner| runner.external_id.as_str()).collect();
    assert_eq!(ids, ["5", "8"]);
}

#[tokio::test]
async fn names_of_any_kind_come_through_as_they_are() {
    let fleet = Fleet::start().await;
    let odd = ["<!channel>", "@everyone", "a\r\nb", "{{7*7}}", "\u{1f980}\u{202e}abc", &"x".repeat(10_000), ""];
    fleet.world().github = GitHub::acme((1..).zip(odd).map(|(id, name)| runner(id, name, "online")));
    let seen = Watched::acme(&fleet).seen().await;
    assert_eq!(seen.iter().map(|runner| runner.name.as_str()).collect::<Vec<_>>(), odd);
}

#[tokio::test]
async fn a_page_that_did_not_change_is_not_sent_again_and_costs_nothing() {
    let fleet = fleet_of(150).await;
    let reset = Timestamp::now().as_second() + 600;
    {
        let github = &mut fleet.world().github;
        github.etags = true;
        github.quota = Some((100, reset));
    }
    let mut acme = Watched::acme(&fleet);
    let first = acme.poll().await;
    assert_eq!(first.quota.unwrap().left, 98);
    let requests = fleet.requests();
    assert!(requests.iter().all(|request| request.header("if-none-match").is_none()));
    assert_eq!(first.requests, BTreeMap::from([(Some(200), 2)]));

    let second = acme.poll().await;
    assert_eq!(second.requests, BTreeMap::from([(Some(304), 2)]));
    assert_eq!(second.result.unwrap(), first.result.unwrap());
    assert_eq!((second.quota.unwrap().left, second.quota.unwrap().limit), (98, 5000));
    assert_eq!(second.quota.unwrap().reset_at.as_second(), reset);
    let requests = fleet.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.header("if-none-match").is_some()));

    fleet.world().github.runners[120]["status"] = "offline".into();
    let third = acme.poll().await;
    assert_eq!(third.quota.unwrap().left, 97);
    let offline: Vec<_> = third
        .result
        .unwrap()
        .into_iter()
        .filter(|runner| runner.online == Some(false))
        .map(|runner| runner.name)
        .collect();
    assert_eq!(offline, ["r121"]);
}

#[tokio::test]
async fn a_tag_of_one_token_is_not_shown_with_another() {
    let fleet = fleet_of(1).await;
    {
        let github = &mut fleet.world().github;
        github.etags = true;
        github.tokens.push("ghp-new".to_owned());
    }
    let mut acme = Watched::acme(&fleet);
    acme.seen().await;
    acme.token.write("ghp-new");
    fleet.requests();
    assert_eq!(acme.seen().await.len(), 1);
    let requests = fleet.requests();
    assert_eq!(requests[0].header("authorization"), Some("Bearer ghp-new"));
    assert_eq!(requests[0].header("if-none-match"), None);
}

#[tokio::test]
async fn a_304_that_was_not_asked_for_is_no_list() {
    let fleet = fleet_of(1).await;
    fleet.next([Fault::Answer(304, vec![], String::new())]);
    assert_eq!(Watched::acme(&fleet).error().await, PollError::Status { status: 304 });
}

/// Who is in a poll, by the names.
fn there(poll: Poll) -> BTreeSet<String> {
    poll.result.unwrap().into_iter().map(|runner| runner.name).collect()
}

#[tokio::test]
async fn who_slips_onto_a_page_that_was_read_is_not_missed() {
    let fleet = fleet_of(150).await;
    let mut acme = Watched::acme(&fleet);
    // The first runner goes after page one: number 101 is now on the page that was read before it was there.
    fleet.next([Fault::Then(Box::new(|world| drop(world.github.runners.remove(0))))]);
    let poll = acme.poll().await;
    assert_eq!(sent(&poll), 4);
    // Who went meanwhile is still there, and gone in the next poll.
    let names = there(poll);
    assert_eq!((names.len(), names.contains("r101"), names.contains("r1")), (150, true, true));
    let names = there(acme.poll().await);
    assert_eq!((names.len(), names.contains("r101"), names.contains("r1")), (149, true, false));
}

#[tokio::test]
async fn who_slips_away_is_not_missed_either_when_another_comes_at_the_same_time() {
    let fleet = fleet_of(150).await;
    let mut acme = Watched::acme(&fleet);
    assert_eq!(sent(&acme.poll().await), 2);
    // The numbers are right on both pages, and yet 101 is on none.
    fleet.next([Fault::Then(Box::new(|world| {
        world.github.runners.remove(0);
        world.github.runners.push(runner(151, "r151", "online"));
    }))]);
    let poll = acme.poll().await;
    assert_eq!(sent(&poll), 4);
    let names = there(poll);
    assert!(names.contains("r101") && names.contains("r151"), "{names:?}");
}

#[tokio::test]
async fn who_is_gone_from_a_list_of_several_pages_is_gone_from_two_readings() {
    let fleet = fleet_of(150).await;
    let mut acme = Watched::acme(&fleet);
    acme.seen().await;
    fleet.world().github.runners.remove(149);
    let poll = acme.poll().await;
    assert_eq!(sent(&poll), 4);
    assert_eq!(there(poll).len(), 149);
    assert_eq!(sent(&acme.poll().await), 2);
}

#[tokio::test]
async fn a_list_that_never_holds_still_still_tells_who_is_there() {
    let fleet = fleet_of(150).await;
    let remove_first = || Fault::Then(Box::new(|world| drop(world.github.runners.remove(0))));
    fleet.next((0..6).map(|_| remove_first()));
    let poll = Watched::acme(&fleet).poll().await;
    assert_eq!(sent(&poll), 6);
    let names = there(poll);
    for id in 7..=150 {
        assert!(names.contains(&format!("r{id}")), "{id}");
    }
}

#[tokio::test]
async fn a_runner_on_two_pages_is_one_runner() {
    let fleet = fleet_of(150).await;
    fleet.next([Fault::Then(Box::new(|world| {
        world.github.runners.insert(0, runner(151, "r151", "online"));
        world.github.runners.pop();
    }))]);
    let poll = Watched::acme(&fleet).poll().await;
    assert_eq!(sent(&poll), 4);
    let seen = poll.result.unwrap();
    assert_eq!(seen.iter().filter(|runner| runner.name == "r100").count(), 1);
    assert_eq!(seen.iter().filter(|runner| runner.name == "r151").count(), 1);
}

#[tokio::test]
async fn a_list_shorter_than_announced_tells_nothing() {
    let fleet = fleet_of(0).await;
    let short = r#"{"total_count": 3, "runners": []}"#;
    fleet.next((0..3).map(|_| Fault::Answer(200, vec![], short.to_owned())));
    let poll = Watched::acme(&fleet).poll().await;
    assert_eq!(sent(&poll), 3);
    assert_eq!(poll.result, Err(PollError::Incomplete("3 runners were announced, and 0 listed".to_owned())));
}

#[tokio::test]
async fn a_page_that_fails_discards_the_whole_poll() {
    let fleet = fleet_of(250).await;
    let mut acme = Watched::acme(&fleet);
    for (fault, code) in [
        (Fault::Answer(502, vec![], "Bad Gateway".to_owned()), "service-error"),
        (Fault::Cut, "unreachable"),
        (Fault::Half, "not-understood"),
        (Fault::Html, "not-understood"),
    ] {
        fleet.next([Fault::None, Fault::None, fault]);
        assert_eq!(acme.error().await.code(), code);
    }
    assert_eq!(acme.seen().await.len(), 250);
}

#[tokio::test]
async fn pages_that_go_in_a_circle_end() {
    let fleet = fleet_of(1).await;
    let link = format!("<{}/orgs/acme/actions/runners?per_page=100>; rel=\"next\"", fleet.github_api());
    fleet.next([Fault::With(vec![("link", link)])]);
    let expected = PollError::NotUnderstood("its pages go in a circle".to_owned());
    assert_eq!(Watched::acme(&fleet).error().await, expected);
}

#[tokio::test]
async fn pages_without_end_end() {
    let fleet = fleet_of(0).await;
    let page = |at: usize| {
        let link = vec![("link", format!("<?page={at}>; rel=\"next\""))];
        Fault::Answer(200, link, r#"{"total_count": 0, "runners": []}"#.to_owned())
    };
    fleet.next((0..300).map(page));
    let poll = Watched::acme(&fleet).poll().await;
    assert_eq!(poll.result, Err(PollError::TooLarge("more than 200 pages".to_owned())));
    assert_eq!(sent(&poll), 200);
}

#[tokio::test]
async fn a_repository_that_moved_within_github_is_followed() {
    let fleet = fleet_of(2).await;
    let moved = format!("{}/orgs/acme/actions/runners", fleet.github_api());
    fleet.next([Fault::Answer(301, vec![("location", moved)], "{}".to_owned())]);
    assert_eq!(Watched::acme(&fleet).seen().await.len(), 2);
    let requests = fleet.requests();
    assert_eq!(requests[1].header("authorization"), Some("Bearer ghp-good"));
}

#[tokio::test]
async fn what_is_used_up_is_told_and_nothing_is_sent_until_it_is_there_again() {
    let fleet = fleet_of(150).await;
    let reset = Timestamp::now().as_second() + 100;
    fleet.world().github.quota = Some((1, reset));
    let mut acme = Watched::acme(&fleet);
    let poll = acme.poll().await;
    // The answer to page one said that nothing is left, so page two was not asked for.
    assert_eq!(sent(&poll), 1);
    let Err(PollError::RateLimited { until }) = poll.result else { panic!("{poll:?}") };
    assert_eq!(poll.not_before, Some(until));
    assert!((reset..=reset + 1).contains(&until.as_second()), "{until} for {reset}");
    assert_eq!(poll.quota.unwrap().left, 0);

    fleet.requests();
    let poll = acme.poll().await;
    assert_eq!((sent(&poll), poll.result), (0, Err(PollError::RateLimited { until })));
    assert!(fleet.requests().is_empty());
}

#[tokio::test]
async fn a_limit_is_obeyed_to_the_second() {
    let fleet = fleet_of(1).await;
    let mut acme = Watched::acme(&fleet);
    let limited = |status, headers| Fault::Answer(status, headers, r#"{"message":"slow down"}"#.to_owned());
    for (status, seconds) in [(429, 10), (403, 60), (429, 7)] {
        fleet.next([limited(status, vec![("retry-after", seconds.to_string())])]);
        let poll = acme.poll().await;
        let wait = poll.not_before.unwrap().duration_since(poll.at).as_secs();
        assert_eq!(poll.result.unwrap_err().code(), "rate-limited");
        assert_eq!(wait, seconds);

        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds.unsigned_abs() - 5)).await;
        tokio::time::resume();
        fleet.requests();
        assert_eq!(sent(&acme.poll().await), 0, "{status} {seconds}");
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(5)).await;
        tokio::time::resume();
        assert_eq!(acme.seen().await.len(), 1, "{status} {seconds}");
    }
}

#[tokio::test]
async fn a_secondary_limit_without_a_time_keeps_away_for_a_minute_and_then_longer() {
    let fleet = fleet_of(1).await;
    let mut acme = Watched::acme(&fleet);
    let text = r#"{"message":"You have exceeded a secondary rate limit. Please wait a few minutes."}"#;
    for minutes in [1, 2, 4, 8] {
        fleet.next([Fault::Answer(403, vec![], text.to_owned())]);
        let poll = acme.poll().await;
        assert_eq!(sent(&poll), 1);
        assert_eq!(poll.not_before.unwrap().duration_since(poll.at).as_mins(), minutes);
        tokio::time::pause();
        tokio::time::advance(Duration::from_mins(minutes.unsigned_abs())).await;
        tokio::time::resume();
    }
    // A good poll ends it.
    acme.seen().await;
    fleet.next([Fault::Answer(403, vec![], text.to_owned())]);
    let poll = acme.poll().await;
    assert_eq!(poll.not_before.unwrap().duration_since(poll.at).as_mins(), 1);
}

/// A pair of keys, made by openssl: the file of the private one, and the public one.
fn keys() -> (SecretFile, Vec<u8>) {
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().expect("openssl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let private = SecretFile::with(&String::from_utf8(openssl(&["genrsa", "-traditional", "2048"])).unwrap());
    let path = private.path();
    let public = openssl(&["rsa", "-in", path.to_str().unwrap(), "-RSAPublicKey_out", "-outform", "DER"]);
    (private, public)
}

fn app_source(fleet: &Fleet, key: &SecretFile) -> Source {
    let access = GitHubAccess::App { app: "Iv23li".to_owned(), installation: 7, key: key.place() };
    let list = RunnerList::GitHub {
        scope: GitHubScope::Organization("acme".to_owned()),
        access,
        api_version: "2022-11-28".to_owned(),
    };
    Source::open(&source(&fleet.github_api(), list), None).unwrap()
}

#[tokio::test]
async fn an_app_shows_its_claim_once_and_its_token_until_shortly_before_its_end() {
    let fleet = fleet_of(1).await;
    let (key, public_key) = keys();
    let end = |minutes: i64| (Timestamp::now() + jiff::SignedDuration::from_mins(minutes)).to_string();
    let gives =
        vec![("ghs-short".to_owned(), end(4)), ("ghs-one".to_owned(), end(60)), ("ghs-two".to_owned(), end(60))];
    fleet.world().github.app = Some(App { id: "Iv23li".to_owned(), installation: 7, public_key, gives });
    let mut source = app_source(&fleet, &key);

    let asked = |fleet: &Fleet| -> Vec<String> {
        let short = |asked: &Asked| {
            let bearer = asked.header("authorization").unwrap().strip_prefix("Bearer ").unwrap().to_owned();
            if asked.target.ends_with("/app/installations/7/access_tokens") { "claim".to_owned() } else { bearer }
        };
        fleet.requests().iter().map(short).collect()
    };
    assert_eq!(source.poll().await.result.unwrap().len(), 1);
    assert_eq!(asked(&fleet), ["claim", "ghs-short"]);
    // Its end was near, so another one was fetched, which lasts.
    assert_eq!(source.poll().await.result.unwrap().len(), 1);
    assert_eq!(sent(&source.poll().await), 1);
    assert_eq!(asked(&fleet), ["claim", "ghs-one", "ghs-one"]);
    // GitHub takes it no longer: the next poll fetches another one.
    fleet.world().github.tokens.retain(|token| token != "ghs-one");
    assert_eq!(source.poll().await.result, Err(PollError::Unauthorized));
    assert_eq!(source.poll().await.result.unwrap().len(), 1);
    assert_eq!(asked(&fleet), ["ghs-one", "claim", "ghs-two"]);
}

#[tokio::test]
async fn an_app_that_github_does_not_know_is_told_what_to_check() {
    let fleet = fleet_of(1).await;
    let (key, public_key) = keys();
    let (other, _) = keys();
    let app =
        |id: &str, installation| App { id: id.to_owned(), installation, public_key: public_key.clone(), gives: vec![] };
    for (app, key, expected) in [
        (app("Iv23li", 8), &key, "app `Iv23li` has no installation 7; check `installation_id`"),
        (app("Iv42", 7), &key, "GitHub refuses the key of app `Iv23li`; check `app_id`, the key, and the clock"),
        (app("Iv23li", 7), &other, "GitHub refuses the key of app `Iv23li`"),
        (app("Iv23li", 7), &SecretFile::with("no key"), "the app's key is no RSA key in PEM as GitHub makes it"),
    ] {
        fleet.world().github.app = Some(app);
        let poll = app_source(&fleet, key).poll().await;
        let error = poll.result.unwrap_err();
        assert_eq!(error.code(), "credential");
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(fleet.requests().iter().all(|asked| asked.target.ends_with("access_tokens")));
}

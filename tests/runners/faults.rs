//! What a service, a proxy or a network can do to a poll. Each is an error of its own, and none says a word of a runner.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ci_bridge::config::GitHubScope;
use ci_bridge::runners::{PollError, Source};

use crate::fleet::github::{GitHub, runner};
use crate::fleet::{Fault, Fleet};
use crate::support::{SecretFile, Watched, github_list, sent, source};

async fn acme() -> Fleet {
    let fleet = Fleet::start().await;
    fleet.world().github = GitHub::acme([runner(1, "r1", "online")]);
    fleet
}

fn plain(status: u16) -> Fault {
    Fault::Answer(status, vec![], "no".to_owned())
}

#[tokio::test]
async fn each_fault_is_told_as_what_it_is() {
    let fleet = acme().await;
    let mut acme = Watched::acme(&fleet);
    let json = |status: u16, text: &str| Fault::Answer(status, vec![], text.to_owned());
    for (fault, code, message) in [
        (plain(500), "service-error", "the service answered with status 500; it is in trouble, see its status page"),
        (plain(502), "service-error", "status 502"),
        (plain(503), "service-error", "status 503"),
        (plain(504), "service-error", "status 504"),
        (plain(401), "unauthorized", "it is wrong, revoked or expired: write a new one into its file"),
        (plain(403), "forbidden", "the token may not list these runners; it needs `admin:org`"),
        (
            Fault::Answer(
                403,
                vec![("x-github-sso", "required; url=https://github.com/orgs/acme/sso".to_owned())],
                "{}".to_owned(),
            ),
            "forbidden",
            "it needs to be authorized for the single sign-on of the organization",
        ),
        (plain(404), "not-found", "the service knows no such organization `acme`, or hides it from this token"),
        (plain(410), "gone", "set `api_version` to a newer one"),
        (plain(418), "unexpected-status", "the unexpected status 418"),
        (plain(204), "unexpected-status", "the unexpected status 204"),
        (Fault::Cut, "unreachable", "the service cannot be reached: "),
        (Fault::Half, "not-understood", "it ends in the middle; check that `api` is the address of the interface"),
        (Fault::Html, "not-understood", "the answer is not understood: it is text/html; check"),
        (json(200, "{}"), "not-understood", "its JSON has another shape (line 1, column 2)"),
        (json(200, "[]"), "not-understood", "its JSON has another shape"),
        (json(200, "{]"), "not-understood", "it is no JSON (line 1, column 2)"),
        (Fault::Huge(9 << 20), "too-large", "the answer is too large: more than 8 MiB for one page"),
    ] {
        fleet.next([fault]);
        let poll = acme.poll().await;
        let error = poll.result.as_ref().unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(sent(&poll), 1, "{error}");
        assert_eq!(poll.requests.contains_key(&None), ["unreachable", "too-large"].contains(&code), "{error}");
    }
    assert_eq!(acme.seen().await.len(), 1);
}

#[tokio::test]
async fn a_service_that_never_answers_is_left_after_its_time() {
    let fleet = acme().await;
    let time = Duration::from_millis(200);
    let mut acme = Watched::acme_within(&fleet, time);
    for fault in [Fault::Hang, Fault::Stall] {
        fleet.next([fault]);
        let begun = Instant::now();
        assert_eq!(acme.error().await, PollError::Timeout { after: time });
        assert!((time..Duration::from_secs(10)).contains(&begun.elapsed()));
    }
    assert_eq!(acme.seen().await.len(), 1);
}

#[tokio::test]
async fn a_service_that_is_not_there_is_told_without_the_token() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let poll = async |api: String| {
        let token = SecretFile::with("ghp-good");
        let list = github_list(GitHubScope::Organization("acme".to_owned()), &token);
        Source::open(&source(&api, list), None).unwrap().poll().await.result.unwrap_err()
    };
    // Something that speaks no TLS answers first, and then nothing.
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let _ = stream.read(&mut [0; 1024]);
    });
    let no_tls = poll(format!("https://{address}")).await;
    server.join().unwrap();
    let refused = poll(format!("http://{address}")).await;
    for error in [no_tls, refused] {
        assert_eq!(error.code(), "unreachable");
        let text = format!("{error} {error:?}");
        assert!(text.contains("the service cannot be reached: error sending request"), "{text}");
        assert!(!text.contains("ghp-good"), "{text}");
    }
}

#[tokio::test]
async fn a_service_with_a_certificate_of_nobody_is_not_asked() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (key, certificate) = (file("key"), file("certificate"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", &key, "-out", &certificate])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut server = Command::new("openssl")
        .args(["s_server", "-accept", "127.0.0.1:0", "-key", &key, "-cert", &certificate])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let address = lines.find_map(|line| line.unwrap().strip_prefix("ACCEPT ").map(str::to_owned)).unwrap();
    let token = SecretFile::with("ghp-good");
    let list = github_list(GitHubScope::Organization("acme".to_owned()), &token);
    let mut source = Source::open(&source(&format!("https://{address}"), list), None).unwrap();
    let error = source.poll().await.result.unwrap_err();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    let said: Vec<_> = lines.map_while(Result::ok).collect();
    assert!(!said.iter().any(|line| line.contains("GET ")), "{said:?}");
}

#[tokio::test]
async fn no_token_goes_where_a_redirect_leads() {
    let (fleet, elsewhere) = (acme().await, acme().await);
    let mut acme = Watched::acme(&fleet);
    let origin = format!("http://{}", elsewhere.address());
    for (location, to) in [
        (format!("{origin}/api/v3/orgs/acme/actions/runners"), origin.as_str()),
        (format!("//{}/api/v3", elsewhere.address()), origin.as_str()),
        ("https://login.example.com/sso?next=x".to_owned(), "https://login.example.com"),
        (format!("http://user@{}/api/v3", fleet.address()), &format!("http://{}", fleet.address())),
        ("http://[".to_owned(), "what is no address"),
    ] {
        for status in [301, 302, 307, 308] {
            fleet.next([Fault::Answer(status, vec![("location", location.clone())], String::new())]);
            assert_eq!(acme.error().await, PollError::Redirected { to: to.to_owned() }, "{status} {location}");
        }
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let fleet = acme().await;
    let here = format!("{}/orgs/acme/actions/runners", fleet.github_api());
    fleet.next((0..10).map(|_| Fault::Answer(302, vec![("location", here.clone())], String::new())));
    let poll = Watched::acme(&fleet).poll().await;
    assert_eq!(poll.result.as_ref().unwrap_err().code(), "redirected");
    assert_eq!(sent(&poll), 4);
}

#[tokio::test]
async fn no_token_goes_where_a_link_leads() {
    let (fleet, elsewhere) = (acme().await, acme().await);
    let mut acme = Watched::acme(&fleet);
    let origin = format!("http://{}", elsewhere.address());
    for (link, to) in [
        (format!("<{origin}/api/v3/orgs/acme/actions/runners>; rel=\"next\""), origin.as_str()),
        (format!("<//{}/x>; rel=\"next\"", elsewhere.address()), origin.as_str()),
        (format!("<https://{}/x>; rel=\"next\"", fleet.address()), &format!("https://{}", fleet.address())),
        (format!("<http://me:pw@{}/x>; rel=\"next\"", fleet.address()), &format!("http://{}", fleet.address())),
        ("<mailto:root@localhost>; rel=\"next\"".to_owned(), "what is no address"),
    ] {
        fleet.next([Fault::With(vec![("link", link.clone())])]);
        assert_eq!(acme.error().await, PollError::ForeignLink { to: to.to_owned() }, "{link}");
    }
    assert!(elsewhere.requests().is_empty());
    assert_eq!(fleet.requests().len(), 5);
}

#[tokio::test]
async fn failures_one_after_the_other_keep_away_for_longer_and_longer() {
    let fleet = acme().await;
    let mut acme = Watched::acme(&fleet);
    for expected in [15.0, 30.0, 60.0, 120.0, 240.0, 300.0, 300.0] {
        fleet.next([plain(500)]);
        let poll = acme.poll().await;
        let wait = poll.not_before.unwrap().duration_since(poll.at).as_secs_f64();
        assert!((expected * 0.89..expected * 1.11).contains(&wait), "{wait} for {expected}");
    }
    // The advice binds nobody: an administrator may ask at once, and success ends it.
    assert_eq!(acme.poll().await.not_before, None);
    fleet.next([plain(500)]);
    let poll = acme.poll().await;
    assert!(poll.not_before.unwrap().duration_since(poll.at).as_secs() < 20);
}

#[tokio::test]
async fn trouble_with_a_time_is_waited_for() {
    let fleet = acme().await;
    let mut acme = Watched::acme(&fleet);
    fleet.next([Fault::Answer(503, vec![("retry-after", "120".to_owned())], String::new())]);
    let poll = acme.poll().await;
    assert_eq!(poll.result, Err(PollError::Service { status: 503 }));
    assert_eq!(poll.not_before.unwrap().duration_since(poll.at).as_secs(), 120);
    assert_eq!(sent(&acme.poll().await), 0);
}

#[tokio::test]
async fn a_token_that_is_gone_is_told_and_one_that_is_new_is_used() {
    let fleet = acme().await;
    let mut acme = Watched::acme(&fleet);
    std::fs::remove_file(acme.token.path()).unwrap();
    let poll = acme.poll().await;
    assert_eq!(sent(&poll), 0);
    let error = poll.result.unwrap_err();
    assert_eq!(error.code(), "credential");
    assert!(error.to_string().ends_with("/secret does not exist"), "{error}");
    acme.token.write("ghp-wrong");
    assert_eq!(acme.error().await, PollError::Unauthorized);
    acme.token.write("ghp-good");
    assert_eq!(acme.seen().await.len(), 1);
}

#[tokio::test]
async fn a_poll_may_be_cancelled() {
    let fleet = acme().await;
    fleet.next([Fault::Hang]);
    let mut acme = Watched::acme(&fleet);
    tokio::select! {
        poll = acme.poll() => panic!("{poll:?}"),
        () = fleet.asked() => {}
    }
    assert_eq!(acme.seen().await.len(), 1);
}

use ci_bridge::alerts::{Alerts, Error};
use ci_bridge::config::Settings;
use ci_bridge::store::DeliveryState;

use crate::support::{Home, Hook, at};

#[tokio::test]
async fn nothing_is_sent_to_this_machine_without_permission() {
    let (hook, address) = Hook::start().await;
    let home = Home::new().await;
    for url in [
        format!("https://{address}/s3cret"),
        format!("https://localhost:{}/s3cret", address.port()),
        format!("https://[::ffff:127.0.0.1]:{}/s3cret", address.port()),
        format!("https://2130706433:{}/s3cret", address.port()),
    ] {
        home.post(&url, 0).await;
        home.courier(&format!("url = \"{url}\"")).deliver(at(0)).await.unwrap();
        let record = home.record().await;
        let error = record.error.unwrap();
        assert!(error.contains("allow_private"), "{url}: {error}");
        assert!(!error.contains("s3cret"), "{error}");
        assert!(matches!(record.state, DeliveryState::Due(_)), "{url}");
    }
    assert_eq!(hook.got(), []);
}

#[tokio::test]
async fn the_secrets_of_a_cloud_are_out_of_reach_also_with_permission() {
    let home = Home::new().await;
    home.post("a", 0).await;
    let keys = "url = \"http://169.254.169.254/latest/meta-data\"\nallow_private = true";
    home.courier(keys).deliver(at(0)).await.unwrap();
    let error = home.record().await.error.unwrap();
    assert!(error.contains("never sent to"), "{error}");
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_leads_nowhere() {
    let (hook, address) = Hook::start().await;
    let (other, other_address) = Hook::start().await;
    let home = Home::new().await;
    home.post("a", 0).await;
    for status in [301, 302, 307, 308] {
        let place = format!("http://{other_address}/");
        hook.answer(status, Some(("location", &place)), 0);
        let next = home.local(address, "").deliver(home.record().await.delivery.at).await.unwrap().next;
        assert!(next.is_some());
        assert_eq!(home.record().await.status, Some(status));
        // For the next round.
        home.post(&status.to_string(), 0).await;
    }
    assert_eq!(other.got(), []);
}

#[tokio::test]
async fn what_went_wrong_is_told_without_the_address() {
    let home = Home::new().await;
    home.post("a", 0).await;
    // Nobody listens on a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let keys = format!("url = \"http://127.0.0.1:{port}/s3cret\"\nallow_private = true");
    home.courier(&keys).deliver(at(0)).await.unwrap();
    let record = home.record().await;
    let error = record.error.unwrap();
    assert!(error.contains("cannot be reached") && !error.contains("s3cret"), "{error}");
    assert_eq!((record.attempts, record.status), (1, None));
}

#[tokio::test]
async fn files_that_an_alert_needs_are_looked_at_when_it_is_loaded() {
    let home = Home::new().await;
    let load = |keys: &str| {
        let text = format!(
            "jobs.prefixes = [\"ci-test-\"]\n[[alerts]]\nname = \"ops\"\nurl = \"https://a.example/s3cret\"\n{keys}\n"
        );
        Alerts::load(&Settings::parse(&text).unwrap().alerts).err()
    };
    let (empty, wrong) = (home.file("empty", "\n"), home.file("wrong", "whsec_%%%"));
    let broken = home.file("broken", "{{ new_runner.name ");
    let missing = home.directory.path().join("missing").display().to_string();
    assert!(load("").is_none());
    assert!(matches!(load(&format!("secret_file = \"{missing}\"")), Some(Error::Read { .. })));
    for file in [empty, wrong] {
        assert!(matches!(load(&format!("secret_file = \"{file}\"")), Some(Error::Secret { .. })));
    }
    let template = |file: &str| load(&format!("format = \"template\"\ntemplates.offline = \"{file}\""));
    assert!(matches!(template(&missing), Some(Error::Read { .. })));
    assert!(matches!(template(&broken), Some(Error::Template { .. })));
}

#[tokio::test]
async fn an_address_in_a_file_is_held_to_the_same_rules_and_never_repeated() {
    let (hook, address) = Hook::start().await;
    let home = Home::new().await;
    for (text, reason) in [
        ("", "this is no address"),
        ("http://203.0.113.1/s3cret", "in the clear"),
        ("https://me:s3cret@a.example", "no user"),
        ("https://a.example/s3cret\nhttps://b.example/s3cret", "this is no address"),
    ] {
        let file = home.file("url", text);
        let text = format!("jobs.prefixes = [\"ci-test-\"]\n[[alerts]]\nname = \"ops\"\nurl_file = \"{file}\"\n");
        let error = Alerts::load(&Settings::parse(&text).unwrap().alerts).err().unwrap();
        assert!(matches!(error, Error::Address { .. }), "{error:?}");
        assert!(error.to_string().contains(reason) && !error.to_string().contains("s3cret"), "{error}");
    }
    let file = home.file("url", &format!("http://{address}/s3cret\n"));
    home.post("a", 0).await;
    home.courier(&format!("url_file = \"{file}\"\nallow_private = true")).deliver(at(0)).await.unwrap();
    assert_eq!(hook.got()[0].path, "/s3cret");
}

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ci_bridge::store::{DeliveryFilter, DeliveryState};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::Method;
use jiff::Timestamp;
use sha2::Sha256;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::support::{Home, Hook, at};

#[tokio::test]
async fn a_message_is_signed_and_names_its_event() {
    let (hook, address) = Hook::start().await;
    let home = Home::new().await;
    let secret = home.file("secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
    let mut courier = home.local(address, &format!("secret_file = \"{secret}\""));
    let event = home.post("a", 0).await;
    assert_eq!(courier.deliver(at(7)).await.unwrap().next, None);
    let got = hook.got().remove(0);
    assert_eq!((got.method.clone(), got.path.as_str()), (Method::POST, "/hook"));
    assert_eq!(got.header("webhook-id"), event.to_string());
    assert_eq!(got.header("webhook-timestamp"), at(7).as_second().to_string());
    assert_eq!(got.header("content-type"), "application/json");
    assert!(got.header("user-agent").starts_with("ci-bridge/"));
    let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let mut hash = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    hash.update(format!("{event}.{}.", at(7).as_second()).as_bytes());
    hash.update(&got.body);
    let signature = STANDARD.encode(hash.finalize().into_bytes());
    assert_eq!(got.header("webhook-signature"), format!("v1,{signature}"));
    assert_eq!(home.record().await.state, DeliveryState::Done(at(7)));
}

#[tokio::test]
async fn a_message_without_a_secret_has_no_signature() {
    let (hook, address) = Hook::start().await;
    let home = Home::new().await;
    home.post("a", 0).await;
    home.local(address, "").deliver(at(0)).await.unwrap();
    let got = hook.got().remove(0);
    assert!(!got.headers.contains_key("webhook-signature") && !got.headers.contains_key("authorization"));
}

#[tokio::test]
async fn each_attempt_sends_the_same_later_and_later_until_it_is_given_up() {
    let (hook, address) = Hook::start().await;
    let home = Home::new().await;
    let mut courier = home.local(address, "");
    let event = home.post("a", 0).await;
    let mut now = at(0);
    let mut waits = Vec::new();
    for _ in 0..10 {
        hook.answer(500, None, 0);
        let Some(next) = courier.deliver(now).await.unwrap().next else { break };
        // A moment before, nothing is sent.
        let before = next.checked_sub(std::time::Duration::from_micros(1)).unwrap();
        assert_eq!(courier.deliver(before).await.unwrap().sent, 0);
        waits.push(next.duration_since(now).as_secs_f64());
        now = next;
    }
    let schedule = [5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0];
    assert_eq!(waits.len(), schedule.len());
    for (wait, planned) in waits.iter().zip(schedule) {
        assert!((planned..=planned * 1.1).contains(wait), "{waits:?}");
    }
    let got = hook.got();
    assert_eq!(got.len(), 10);
    assert!(got.iter().all(|one| one.body == got[0].body && one.header("webhook-id") == event.to_string()));
    let dead = home.store.deliveries(DeliveryFilter::Dead, None, 9).await.unwrap().remove(0);
    assert_eq!((dead.state, dead.attempts, dead.status), (DeliveryState::Dead(now), 10, Some(500)));
    // Once more, by hand.
    assert!(home.store.replay(dead.id, now).await.unwrap());
    assert_eq!(courier.deliver(now).await.unwrap().sent, 1);
    assert_eq!(home.record().await.state, DeliveryState::Done(now));
}

#[tokio::test]
async fn a_target_that_asks_for_a_pause_gets_it_for_everything() {
    for status in [429, 503] {
        let (hook, address) = Hook::start().await;
        let home = Home::new().await;
        let mut courier = home.local(address, "");
        home.post("a", 0).await;
        hook.answer(status, Some(("retry-after", "120")), 0);
        assert_eq!(courier.deliver(at(0)).await.unwrap().next, Some(at(120)));
        home.post("b", 1).await;
        let round = courier.deliver(at(119)).await.unwrap();
        assert_eq!((round.sent, round.next), (0, Some(at(120))));
        assert_eq!(courier.deliver(at(120)).await.unwrap().sent, 2);
    }
}

#[tokio::test]
async fn a_target_that_is_gone_is_not_asked_again() {
    let (hook, address) = Hook::start().await;
    let home = Home::new().await;
    home.post("a", 0).await;
    hook.answer(410, None, 0);
    assert_eq!(home.local(address, "").deliver(at(0)).await.unwrap().next, None);
    assert_eq!(home.record().await.state, DeliveryState::Dead(at(0)));
}

#[tokio::test]
async fn what_concerns_one_subject_comes_in_order_and_holds_up_no_other() {
    let (hook, address) = Hook::start().await;
    let home = Home::new().await;
    let mut courier = home.local(address, "");
    home.post("a", 0).await;
    hook.answer(500, None, 0);
    let retry = courier.deliver(at(0)).await.unwrap().next.unwrap();
    home.post("a", 1).await;
    home.post("b", 1).await;
    assert_eq!(courier.deliver(at(1)).await.unwrap().sent, 1);
    for _ in 0..2 {
        assert_eq!(courier.deliver(retry).await.unwrap().sent, 1);
    }
    let bodies: Vec<_> = hook.got().into_iter().map(|got| String::from_utf8(got.body.to_vec()).unwrap()).collect();
    assert_eq!(
        bodies,
        [
            r#"{"subject":"a","at":0}"#,
            r#"{"subject":"b","at":1}"#,
            r#"{"subject":"a","at":0}"#,
            r#"{"subject":"a","at":1}"#
        ]
    );
}

#[tokio::test]
async fn matrix_gets_the_event_as_its_transaction_and_the_token_as_a_header() {
    let (hook, address) = Hook::start().await;
    let home = Home::new().await;
    let token = home.file("token", "syt_secret");
    let room = "_matrix/client/v3/rooms/%21room:example.org/send/m.room.message";
    let mut courier = home.courier(&format!(
        "url = \"http://{address}/{room}\"\nallow_private = true\nformat = \"matrix\"\nsecret_file = \"{token}\""
    ));
    let event = home.post("a", 0).await;
    courier.deliver(at(0)).await.unwrap();
    let got = hook.got().remove(0);
    assert_eq!((got.method.clone(), got.path.clone()), (Method::PUT, format!("/{room}/{event}")));
    assert_eq!(got.header("authorization"), "Bearer syt_secret");
    assert!(!got.headers.contains_key("webhook-signature"));
}

#[tokio::test]
async fn an_answer_without_end_holds_nobody_up() {
    let (hook, address) = Hook::start().await;
    let home = Home::new().await;
    home.post("a", 0).await;
    hook.answer(200, None, 64 * 1024 * 1024);
    home.local(address, "").deliver(at(0)).await.unwrap();
    assert_eq!(home.record().await.state, DeliveryState::Done(at(0)));
}

#[tokio::test]
async fn a_courier_sends_what_is_posted_while_it_runs_and_stops_when_told() {
    let (hook, address) = Hook::start().await;
    let home = Home::new().await;
    let (wake, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    let running = tokio::spawn(home.local(address, "").run(wake.clone(), stop.clone()));
    for number in 0..20 {
        home.post("a", number).await;
        wake.notify_one();
    }
    while hook.got().len() < 20 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    running.await.unwrap();
    home.post("a", 20).await;
    wake.notify_one();
    assert_eq!(home.store.due("ops", Timestamp::MAX, 9).await.unwrap().len(), 1);
}

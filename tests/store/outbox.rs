use std::time::Duration;

use ci_bridge::store::{Attempted, DeliveryFilter, DeliveryId, DeliveryRecord, DeliveryState, Store};
use jiff::Timestamp;

use crate::support::{Home, at, delivery};

async fn due(store: &Store, alert: &str, seconds: i64) -> Vec<DeliveryRecord> {
    store.due(alert, at(seconds), 100).await.unwrap()
}

async fn subjects(store: &Store, alert: &str, seconds: i64) -> Vec<(String, Timestamp)> {
    let due = due(store, alert, seconds).await;
    due.into_iter().map(|record| (record.delivery.subject, record.delivery.at)).collect()
}

const DONE: Attempted = Attempted::Done { status: 204 };

fn failed(next: Option<i64>) -> Attempted {
    Attempted::Failed { status: Some(500), error: "the answer has status 500".to_owned(), next: next.map(at) }
}

async fn settle(store: &Store, delivery: DeliveryId, attempted: Attempted, seconds: i64) {
    store.settle(vec![(delivery, attempted)], at(seconds)).await.unwrap();
}

#[tokio::test]
async fn what_is_told_of_one_subject_is_told_in_order() {
    let home = Home::new();
    let store = home.open().await;
    let posted =
        vec![delivery("ops", "a", 1), delivery("ops", "b", 2), delivery("ops", "a", 3), delivery("ops", "a", 4)];
    store.post(posted).await.unwrap();
    assert_eq!(subjects(&store, "ops", 9).await, [("a".to_owned(), at(1)), ("b".to_owned(), at(2))]);
    let first = due(&store, "ops", 9).await[0].id;
    settle(&store, first, failed(Some(20)), 10).await;
    assert_eq!(subjects(&store, "ops", 19).await, [("b".to_owned(), at(2))]);
    settle(&store, first, DONE, 20).await;
    assert_eq!(subjects(&store, "ops", 20).await, [("b".to_owned(), at(2)), ("a".to_owned(), at(3))]);
    // Given up, it keeps nobody waiting.
    let second = due(&store, "ops", 20).await[1].id;
    settle(&store, second, failed(None), 21).await;
    assert_eq!(subjects(&store, "ops", 21).await, [("b".to_owned(), at(2)), ("a".to_owned(), at(4))]);
}

#[tokio::test]
async fn one_alert_never_waits_for_another() {
    let home = Home::new();
    let store = home.open().await;
    store.post(vec![delivery("dead", "a", 1), delivery("ops", "a", 2)]).await.unwrap();
    assert_eq!(subjects(&store, "ops", 2).await, [("a".to_owned(), at(2))]);
    assert_eq!(store.next_due("dead").await.unwrap(), Some(at(1)));
    assert_eq!(store.next_due("other").await.unwrap(), None);
}

#[tokio::test]
async fn a_delivery_is_sent_as_it_was_written_also_after_a_restart() {
    let home = Home::new();
    let store = home.open().await;
    let told = delivery("ops", "a", 1);
    store.post(vec![told.clone()]).await.unwrap();
    let first = due(&store, "ops", 1).await.remove(0);
    settle(&store, first.id, failed(Some(5)), 2).await;
    store.close().await.unwrap();
    let store = home.open().await;
    let again = due(&store, "ops", 5).await.remove(0);
    assert_eq!(again.delivery, told);
    assert_eq!(
        (again.attempts, again.status, again.error.as_deref()),
        (1, Some(500), Some("the answer has status 500"))
    );
}

#[tokio::test]
async fn an_event_is_told_to_an_alert_once() {
    let home = Home::new();
    let store = home.open().await;
    let told = delivery("ops", "a", 1);
    for _ in 0..2 {
        store.post(vec![told.clone()]).await.unwrap();
    }
    settle(&store, due(&store, "ops", 1).await[0].id, DONE, 1).await;
    store.post(vec![told]).await.unwrap();
    assert_eq!(due(&store, "ops", 9).await, []);
    assert_eq!(store.deliveries(DeliveryFilter::All, None, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn news_of_a_delivery_that_is_settled_changes_nothing() {
    let home = Home::new();
    let store = home.open().await;
    store.post(vec![delivery("ops", "a", 1), delivery("ops", "a", 2)]).await.unwrap();
    let first = due(&store, "ops", 1).await[0].id;
    settle(&store, first, DONE, 3).await;
    for late in [failed(Some(9)), failed(None), DONE] {
        settle(&store, first, late, 4).await;
    }
    let record = store.deliveries(DeliveryFilter::All, None, 9).await.unwrap().pop().unwrap();
    assert_eq!((record.state, record.attempts), (DeliveryState::Done(at(3)), 1));
    assert_eq!(subjects(&store, "ops", 9).await, [("a".to_owned(), at(2))]);
}

#[tokio::test]
async fn only_what_was_given_up_can_be_replayed() {
    let home = Home::new();
    let store = home.open().await;
    store.post(vec![delivery("ops", "a", 1), delivery("ops", "a", 1), delivery("ops", "b", 2)]).await.unwrap();
    let first = due(&store, "ops", 1).await[0].id;
    assert!(!store.replay(first, at(2)).await.unwrap());
    settle(&store, first, failed(None), 3).await;
    let dead = store.deliveries(DeliveryFilter::Dead, None, 9).await.unwrap();
    assert_eq!(
        dead.iter().map(|dead| (dead.id, dead.state)).collect::<Vec<_>>(),
        [(first, DeliveryState::Dead(at(3)))]
    );
    assert!(store.replay(first, at(4)).await.unwrap());
    assert!(!store.replay(first, at(4)).await.unwrap());
    // What is due of its subject goes first.
    assert_eq!(subjects(&store, "ops", 9).await, [("b".to_owned(), at(2)), ("a".to_owned(), at(1))]);
    settle(&store, due(&store, "ops", 9).await[1].id, DONE, 5).await;
    let due = due(&store, "ops", 9).await;
    assert_eq!((due[1].id, due[1].attempts, due[1].state), (first, 0, DeliveryState::Due(at(5))));
}

#[tokio::test]
async fn what_no_alert_waits_for_is_given_up() {
    let home = Home::new();
    let store = home.open().await;
    store.post(vec![delivery("gone", "a", 1), delivery("gone", "a", 2), delivery("ops", "a", 3)]).await.unwrap();
    assert_eq!(store.bury_deliveries_but(&["ops"], at(5)).await.unwrap(), 2);
    assert_eq!(store.bury_deliveries_but(&["ops"], at(5)).await.unwrap(), 0);
    let dead = store.deliveries(DeliveryFilter::Dead, None, 9).await.unwrap();
    assert!(dead.iter().all(|dead| dead.delivery.alert == "gone" && dead.error.is_some()));
    assert_eq!(due(&store, "ops", 9).await.len(), 1);
}

#[tokio::test]
async fn what_is_settled_is_forgotten_by_age_and_nothing_else_is() {
    let home = Home::new();
    let store = home.open().await;
    store.post((0..4).map(|number| delivery("ops", &number.to_string(), number)).collect()).await.unwrap();
    let due = due(&store, "ops", 9).await;
    settle(&store, due[0].id, DONE, 10).await;
    settle(&store, due[1].id, failed(None), 10).await;
    settle(&store, due[2].id, DONE, 30).await;
    assert_eq!(store.forget_deliveries(at(20)).await.unwrap(), 2);
    assert_eq!(store.forget_deliveries(at(20) + Duration::from_secs(1)).await.unwrap(), 0);
    let left: Vec<_> = store.deliveries(DeliveryFilter::All, None, 9).await.unwrap();
    assert_eq!(left.iter().map(|left| left.id).collect::<Vec<_>>(), [due[3].id, due[2].id]);
    let before = store.deliveries(DeliveryFilter::All, Some(due[3].id), 9).await.unwrap();
    assert_eq!(before.iter().map(|left| left.id).collect::<Vec<_>>(), [due[2].id]);
}

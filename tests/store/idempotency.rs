use ci_bridge::store::{Answer, Attempt, Begun};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::{Home, at};

const PAYLOAD: [u8; 32] = [7; 32];
const DAY: i64 = 24 * 60 * 60;

fn attempt(token: &str, key: &str) -> Attempt {
    Attempt { token: token.parse().unwrap(), key: key.to_owned(), request: Uuid::now_v7() }
}

fn answer() -> Answer {
    let headers = vec![("location".to_owned(), "/api/runs/1".to_owned()), ("x-quote".to_owned(), "\"é\"".to_owned())];
    Answer { status: 202, headers, body: b"{\"msg\": \xff}".to_vec() }
}

#[tokio::test]
async fn of_a_hundred_parallel_attempts_one_is_new() {
    let home = Home::new();
    let store = home.open().await;
    let mut attempts = JoinSet::new();
    for _ in 0..100 {
        let store = store.clone();
        attempts.spawn(async move {
            let attempt = attempt("ci", "key");
            (attempt.request, store.begin(attempt, PAYLOAD, at(0)).await.unwrap())
        });
    }
    let (new, others): (Vec<_>, Vec<_>) =
        attempts.join_all().await.into_iter().partition(|(_, begun)| *begun == Begun::New);
    assert_eq!((new.len(), others.len()), (1, 99));
    let under_way = Begun::UnderWay { request: new[0].0, since: at(0) };
    assert!(others.iter().all(|(_, begun)| *begun == under_way));
}

#[tokio::test]
async fn an_answer_is_given_again_also_after_a_restart() {
    let home = Home::new();
    let store = home.open().await;
    let first = attempt("ci", "key");
    assert_eq!(store.begin(first.clone(), PAYLOAD, at(0)).await.unwrap(), Begun::New);
    assert!(store.answer(first.clone(), answer()).await.unwrap());
    // The first answer stays.
    assert!(!store.answer(first.clone(), Answer { status: 500, ..answer() }).await.unwrap());
    assert!(!store.release(first).await.unwrap());
    store.close().await.unwrap();
    let store = home.open().await;
    let replay = Begun::Replay(answer());
    assert_eq!(store.begin(attempt("ci", "key"), PAYLOAD, at(DAY - 1)).await.unwrap(), replay);
}

#[tokio::test]
async fn an_attempt_whose_bridge_ended_is_known_by_its_request() {
    let home = Home::new();
    let store = home.open().await;
    let first = attempt("ci", "key");
    store.begin(first.clone(), PAYLOAD, at(0)).await.unwrap();
    store.close().await.unwrap();
    let begun = home.open().await.begin(attempt("ci", "key"), PAYLOAD, at(5)).await.unwrap();
    assert_eq!(begun, Begun::UnderWay { request: first.request, since: at(0) });
}

#[tokio::test]
async fn a_key_stands_for_one_request_of_one_token() {
    let home = Home::new();
    let store = home.open().await;
    let first = attempt("ci", "key");
    store.begin(first.clone(), PAYLOAD, at(0)).await.unwrap();
    assert_eq!(store.begin(attempt("ci", "key"), [8; 32], at(0)).await.unwrap(), Begun::Mismatch);
    store.answer(first, answer()).await.unwrap();
    assert_eq!(store.begin(attempt("ci", "key"), [8; 32], at(0)).await.unwrap(), Begun::Mismatch);
    assert_eq!(store.begin(attempt("nightly", "key"), [8; 32], at(0)).await.unwrap(), Begun::New);
    assert_eq!(store.begin(attempt("ci", "other"), [8; 32], at(0)).await.unwrap(), Begun::New);
}

#[tokio::test]
async fn an_attempt_that_came_to_nothing_may_be_made_again() {
    let home = Home::new();
    let store = home.open().await;
    let (first, second) = (attempt("ci", "key"), attempt("ci", "key"));
    store.begin(first.clone(), PAYLOAD, at(0)).await.unwrap();
    assert!(!store.release(second.clone()).await.unwrap());
    assert!(store.release(first.clone()).await.unwrap());
    assert_eq!(store.begin(second, PAYLOAD, at(0)).await.unwrap(), Begun::New);
    // Too late: the key stands for the second attempt.
    assert!(!store.answer(first, answer()).await.unwrap());
}

#[tokio::test]
async fn a_key_is_forgotten_after_a_day() {
    let home = Home::new();
    let store = home.open().await;
    store.begin(attempt("ci", "old"), PAYLOAD, at(0)).await.unwrap();
    store.begin(attempt("ci", "new"), PAYLOAD, at(1)).await.unwrap();
    // Also without being swept.
    assert_eq!(store.begin(attempt("ci", "old"), [8; 32], at(DAY)).await.unwrap(), Begun::New);
    assert_eq!(store.begin(attempt("ci", "new"), [8; 32], at(DAY)).await.unwrap(), Begun::Mismatch);
    assert_eq!(store.forget_expired(at(DAY)).await.unwrap(), 0);
    assert_eq!(store.forget_expired(at(DAY + 1)).await.unwrap(), 1);
    assert_eq!(store.begin(attempt("ci", "new"), [8; 32], at(DAY)).await.unwrap(), Begun::New);
}

#[tokio::test]
async fn a_clock_that_was_ahead_does_not_keep_a_key_for_years() {
    let home = Home::new();
    let store = home.open().await;
    store.begin(attempt("ci", "key"), PAYLOAD, at(1000 * DAY)).await.unwrap();
    // An hour back, or less than a day, is within what a key lasts.
    assert_eq!(store.begin(attempt("ci", "key"), [8; 32], at(1000 * DAY - 3600)).await.unwrap(), Begun::Mismatch);
    assert_eq!(store.begin(attempt("ci", "key"), [8; 32], at(DAY)).await.unwrap(), Begun::New);
    store.begin(attempt("ci", "other"), PAYLOAD, at(1000 * DAY)).await.unwrap();
    assert_eq!(store.forget_expired(at(DAY)).await.unwrap(), 1);
}

//! A target that remembers what it was sent and answers what a test says, and alerts that write to it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use ci_bridge::alerts::{Alerts, Courier};
use ci_bridge::config::Settings;
use ci_bridge::store::{Delivery, DeliveryFilter, DeliveryRecord, Store};
use http::{HeaderMap, Method, Uri};
use jiff::Timestamp;
use tempfile::TempDir;
use uuid::Uuid;

/// One request that a target got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// What a target answers next: a status and a header.
pub(crate) type Answer = (u16, Option<(&'static str, String)>, usize);

/// A server on this machine.
#[derive(Clone, Default)]
pub(crate) struct Hook {
    got: Arc<Mutex<Vec<Got>>>,
    /// The answers; 204 when there are none.
    answers: Arc<Mutex<VecDeque<Answer>>>,
}

impl Hook {
    pub(crate) async fn start() -> (Self, SocketAddr) {
        let hook = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(take).with_state(hook.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (hook, address)
    }

    pub(crate) fn answer(&self, status: u16, header: Option<(&'static str, &str)>, length: usize) {
        let header = header.map(|(name, value)| (name, value.to_owned()));
        self.answers.lock().unwrap().push_back((status, header, length));
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

async fn take(State(hook): State<Hook>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    hook.got.lock().unwrap().push(Got { method, path: uri.to_string(), headers, body });
    let (status, header, length) = hook.answers.lock().unwrap().pop_front().unwrap_or((204, None, 0));
    let mut response = Response::builder().status(status);
    if let Some((name, value)) = header {
        response = response.header(name, value);
    }
    response.body(Body::from(vec![b'x'; length])).unwrap()
}

/// A store, alerts, and their files.
pub(crate) struct Home {
    pub(crate) directory: TempDir,
    pub(crate) store: Store,
}

impl Home {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).await.unwrap().store;
        Self { directory, store }
    }

    /// The courier of an alert `ops` with these keys.
    pub(crate) fn courier(&self, keys: &str) -> Courier {
        let text = format!("jobs.prefixes = [\"ci-test-\"]\n[[alerts]]\nname = \"ops\"\n{keys}\n");
        let alerts = Alerts::load(&Settings::parse(&text).unwrap().alerts).unwrap();
        alerts.couriers(&self.store).unwrap().remove(0)
    }

    pub(crate) fn local(&self, address: SocketAddr, keys: &str) -> Courier {
        self.courier(&format!("url = \"http://{address}/hook\"\nallow_private = true\n{keys}"))
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Posts something to be told of a subject; returns the id of the event.
    pub(crate) async fn post(&self, subject: &str, second: i64) -> Uuid {
        let event = Uuid::now_v7();
        let delivery = Delivery {
            event,
            alert: "ops".to_owned(),
            kind: "runner.offline".to_owned(),
            subject: subject.to_owned(),
            at: at(second),
            content_type: "application/json".to_owned(),
            body: format!("{{\"subject\":\"{subject}\",\"at\":{second}}}").into_bytes(),
        };
        self.store.post(vec![delivery]).await.unwrap();
        event
    }

    pub(crate) async fn record(&self) -> DeliveryRecord {
        self.store.deliveries(DeliveryFilter::All, None, 1).await.unwrap().remove(0)
    }
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + second).unwrap()
}

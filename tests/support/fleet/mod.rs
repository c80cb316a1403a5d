//! A GitHub and a GitLab on the wire, with runners that a test sets, and every fault that a test asks for.
//!
//! One server on the loopback plays both: GitHub below `/api/v3` as an Enterprise Server does, GitLab below `/api/v4`.
//! It keeps all requests, and answers each as the services do, unless a fault is next in its queue.

pub(crate) mod github;
pub(crate) mod gitlab;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use self::github::GitHub;
use self::gitlab::GitLab;

/// What happens instead of an answer, or to it.
pub(crate) enum Fault {
    /// The answer as it should be.
    None,
    /// Another answer: status, headers, and a body that is JSON if it begins like it.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// Nothing ever comes.
    Hang,
    /// The beginning of the answer comes, and nothing after it.
    Stall,
    /// The connection breaks in the middle of the body.
    Cut,
    /// The first half of the body is sent as if it were the whole.
    Half,
    /// A page for people, with status 200.
    Html,
    /// A body of so many bytes.
    Huge(usize),
    /// The answer as it should be, with these headers instead of its own.
    With(Vec<(&'static str, String)>),
    /// The answer as it should be, and then the world changes.
    Then(Box<dyn FnOnce(&mut World) + Send>),
}

/// What both services know.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) github: GitHub,
    pub(crate) gitlab: GitLab,
    faults: VecDeque<Fault>,
    requests: Vec<Asked>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// The path with the query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A request, taken apart for the services.
pub(crate) struct Call<'a> {
    pub(crate) method: &'a str,
    /// The parts of the path below the service's own, decoded.
    pub(crate) path: Vec<String>,
    /// The path and the base of the addresses in answers.
    pub(crate) base: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a Value,
}

impl Call<'_> {
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The items of the page that is asked for, and the links of that page.
    pub(crate) fn page<'i, T>(&self, items: &'i [T]) -> (&'i [T], HeaderMap) {
        let number = |name: &str, default: usize| self.query(name).map_or(default, |value| value.parse().unwrap());
        let size = number("per_page", 20).clamp(1, 100);
        // A cursor is a text of the service; here it is the number of items before the page.
        let keyset = self.query("pagination") == Some("keyset");
        let name = if keyset { "cursor" } else { "page" };
        let from = if keyset { number(name, 0) } else { (number(name, 1) - 1) * size }.min(items.len());
        let link = |from: usize, relation: &str| {
            let at = if keyset { from } else { from / size + 1 };
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(self.query.iter().filter(|(key, _)| key != name));
            format!("<{}?{}>; rel=\"{relation}\"", self.base, query.append_pair(name, &at.to_string()).finish())
        };
        let mut links = Vec::new();
        if from > 0 && !keyset {
            links.extend([link(from - size, "prev"), link(0, "first")]);
        }
        if from + size < items.len() {
            links.push(link(from + size, "next"));
        }
        let mut headers = HeaderMap::new();
        if !links.is_empty() {
            headers.insert(header::LINK, links.join(", ").parse().unwrap());
        }
        (&items[from..(from + size).min(items.len())], headers)
    }
}

/// An answer before faults.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) fn new(status: u16, body: Value) -> Self {
        Self { status, headers: HeaderMap::new(), body }
    }

    pub(crate) fn message(status: u16, message: &str) -> Self {
        Self::new(status, json!({ "message": message }))
    }
}

pub(crate) struct Fleet {
    address: SocketAddr,
    world: Arc<Mutex<World>>,
    asked: Arc<Notify>,
    server: JoinHandle<()>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Clone)]
struct Shared {
    address: SocketAddr,
    world: Arc<Mutex<World>>,
    asked: Arc<Notify>,
}

impl Fleet {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (world, asked) = (Arc::new(Mutex::new(World::default())), Arc::new(Notify::new()));
        let shared = Shared { address, world: world.clone(), asked: asked.clone() };
        let router = Router::new().fallback(answer).with_state(shared);
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, world, asked, server }
    }

    /// The address of the interface of GitHub.
    pub(crate) fn github_api(&self) -> String {
        format!("http://{}/api/v3", self.address)
    }

    /// The address of the interface of GitLab.
    pub(crate) fn gitlab_api(&self) -> String {
        format!("http://{}/api/v4", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the services know, to look at and to change.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// What happens to the next requests, one fault each.
    pub(crate) fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.world().faults.extend(faults);
    }

    /// The requests since this was last called.
    pub(crate) fn requests(&self) -> Vec<Asked> {
        std::mem::take(&mut self.world().requests)
    }

    /// Waits for the next request.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }
}

async fn answer(State(shared): State<Shared>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let target = uri.path_and_query().unwrap().to_string();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (reply, fault) = {
        let mut world = shared.world.lock().unwrap();
        world.requests.push(Asked { method: method.clone(), target: target.clone(), headers: headers.clone() });
        let fault = world.faults.pop_front().unwrap_or(Fault::None);
        let reply = match fault {
            Fault::Answer(..) | Fault::Hang | Fault::Html | Fault::Huge(_) => Reply::new(200, Value::Null),
            _ => world.reply(&shared, &method, &uri, &headers, &body),
        };
        let fault = match fault {
            Fault::Then(change) => {
                change(&mut world);
                Fault::None
            }
            fault => fault,
        };
        (reply, fault)
    };
    shared.asked.notify_one();
    respond(reply, fault).await
}

async fn respond(reply: Reply, fault: Fault) -> Response {
    let text = if reply.body.is_null() { String::new() } else { reply.body.to_string() };
    let (status, mut headers) = (reply.status, reply.headers);
    if !text.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    }
    match fault {
        Fault::None | Fault::Then(_) => build(status, headers, Body::from(text)),
        Fault::Answer(status, extra, text) => {
            let kind = if text.starts_with(['{', '[']) { "application/json" } else { "text/plain" };
            let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
            replace(&mut headers, extra);
            build(status, headers, Body::from(text))
        }
        Fault::Hang => std::future::pending().await,
        Fault::Stall => {
            let begin = Bytes::from(text[..text.len() / 2].to_owned());
            let never = stream::pending::<Result<Bytes, Infallible>>();
            build(status, headers, Body::from_stream(stream::iter([Ok(begin)]).chain(never)))
        }
        Fault::Cut => {
            let begin = Bytes::from(text[..text.len() / 2].to_owned());
            let parts = [Ok(begin), Err(std::io::Error::other("cut"))];
            build(status, headers, Body::from_stream(stream::iter(parts)))
        }
        Fault::Half => build(status, headers, Body::from(text[..text.len() / 2].to_owned())),
        Fault::Html => {
            let headers =
                HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))]);
            build(200, headers, Body::from("<!DOCTYPE html><title>Sign in</title>"))
        }
        Fault::Huge(size) => {
            let piece = Bytes::from(vec![b' '; 1 << 16]);
            let pieces = std::iter::repeat_n(Ok::<_, Infallible>(piece), size >> 16);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            build(200, headers, Body::from_stream(stream::iter(pieces)))
        }
        Fault::With(extra) => {
            replace(&mut headers, extra);
            build(status, headers, Body::from(text))
        }
    }
}

fn replace(headers: &mut HeaderMap, with: Vec<(&'static str, String)>) {
    for (name, value) in with {
        headers.insert(HeaderName::from_static(name), value.parse().unwrap());
    }
}

fn build(status: u16, headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    *response.headers_mut() = headers;
    response
}

impl World {
    fn reply(&mut self, shared: &Shared, method: &Method, uri: &Uri, headers: &HeaderMap, body: &Value) -> Reply {
        let mut path: Vec<String> = uri.path().split('/').skip(1).map(|part| part.replace("%2F", "/")).collect();
        let query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let base = format!("http://{}{}", shared.address, uri.path());
        let service: Vec<String> = path.drain(..path.len().min(2)).collect();
        let call = Call { method: method.as_str(), path, base, query, headers, body };
        match service.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["api", "v3"] => self.github.reply(&call),
            ["api", "v4"] => self.gitlab.reply(&call),
            _ => Reply::message(404, "Not Found"),
        }
    }
}

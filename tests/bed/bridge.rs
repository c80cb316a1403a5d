//! The bridge in a bed: installed and started as an administrator does it, and called as a CI does.

use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::Value;

use crate::machine::{Bed, Plan};

/// Nothing in a bed takes longer than this, unless it never comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(50);

/// A bed in which the service runs and allows `ci-test-*`.
pub(crate) struct Bridge {
    /// Where it runs.
    pub(crate) bed: Bed,
    client: Client,
    streams: Client,
    /// May start, stop and read.
    pub(crate) writer: String,
    /// May read.
    pub(crate) reader: String,
}

/// What the bridge answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    async fn to(request: RequestBuilder) -> reqwest::Result<Self> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Self { status, headers, body: response.bytes().await?.into() })
    }

    pub(crate) fn json(&self) -> Value {
        let json = serde_json::from_slice(&self.body);
        assert!(json.is_ok(), "no JSON: {}", self.text());
        json.unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The status and the code of an error.
    pub(crate) fn refusal(&self) -> (u16, String) {
        (self.status, self.json()["code"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// The body of an answer that must be 200.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }
}

impl Bridge {
    /// Boots a bed, installs, configures and starts the bridge.
    ///
    /// journald has no limit of its own there: it looks for that of a unit only as long as the unit is active, and on a busy
    /// machine comes too late for a job that has printed and ended at once.
    pub(crate) fn up() -> Self {
        Self::up_in(Plan::default().package().journald("RateLimitIntervalSec=0").boot())
    }

    /// Configures and starts the bridge in a bed that has the package.
    pub(crate) fn up_in(bed: Bed) -> Self {
        let made: Value =
            serde_json::from_str(&bed.ok(["ci-bridge", "init", "--prefix", "ci-test-", "--json"])).expect("JSON");
        let token = |name: &str| {
            let tokens = made["tokens"].as_array().expect("tokens");
            let token = tokens.iter().find(|token| token["name"] == name).expect("a token");
            token["token"].as_str().expect("text").to_owned()
        };
        bed.ok(["systemctl", "start", "ci-bridge"]);
        Self { client: client(&bed), streams: streams(&bed), writer: token("ci"), reader: token("read"), bed }
    }

    /// A bridge that has the logs of ended runs from the journal alone.
    pub(crate) fn up_without_archive() -> Self {
        let bridge = Self::up();
        // `init` has written the key, commented out.
        bridge.bed.sh("sed -i 's/^#enabled = true$/enabled = false/' /etc/ci-bridge/config.toml && \
             grep -q '^enabled = false$' /etc/ci-bridge/config.toml && systemctl restart ci-bridge");
        bridge
    }

    /// The same, after the bed has booted anew.
    pub(crate) fn after_boot(self) -> Self {
        Self { client: client(&self.bed), streams: streams(&self.bed), ..self }
    }

    /// Sends a request with the token that may write.
    pub(crate) async fn send(&self, method: Method, path: &str) -> Answer {
        self.try_send(method, path, &self.writer).await.expect("an answer")
    }

    /// Sends a request; an error if no whole answer came.
    pub(crate) async fn try_send(&self, method: Method, path: &str, token: &str) -> reqwest::Result<Answer> {
        let request = self.client.request(method, format!("http://bridge{path}"));
        Answer::to(if token.is_empty() { request } else { request.bearer_auth(token) }).await
    }

    /// Sends a `POST` with a body and the token that may write.
    pub(crate) async fn post_json(&self, path: &str, body: &Value) -> Answer {
        let request = self.client.post(format!("http://bridge{path}")).bearer_auth(&self.writer).json(body);
        Answer::to(request).await.expect("an answer")
    }

    /// Sends a start that may be sent again; an error if no whole answer came.
    pub(crate) async fn post_with_key(&self, path: &str, key: &str) -> reqwest::Result<Answer> {
        let request = self.client.post(format!("http://bridge{path}")).header("idempotency-key", key);
        let response = request.bearer_auth(&self.writer).send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await?.into() })
    }

    /// Asks for something that has no end of its own.
    pub(crate) async fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        let request = self.streams.get(format!("http://bridge{path}")).bearer_auth(&self.writer);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.send().await.expect("an answer")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path).await
    }

    pub(crate) async fn post(&self, path: &str) -> Answer {
        self.send(Method::POST, path).await
    }

    /// Starts a job and returns the id of its run.
    pub(crate) async fn start(&self, job: &str) -> String {
        let answer = self.post(&format!("/api/job/{job}")).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        let run = answer.json()["run"]["id"].as_str().expect("text").to_owned();
        assert_eq!(answer.header("x-ci-run-id"), run);
        run
    }

    /// Waits for the end of a run of a job, and returns the state then.
    pub(crate) async fn end_of(&self, job: &str, run: &str) -> Value {
        let state = self.get(&format!("/api/job/{job}/state?run={run}&wait=50")).await.ok();
        assert_eq!(state["run_state"], "ended", "{state}");
        state
    }

    /// Starts a job, waits for its end, and returns the state then.
    pub(crate) async fn run(&self, job: &str) -> Value {
        let run = self.start(job).await;
        self.end_of(job, &run).await
    }

    pub(crate) async fn state(&self, job: &str) -> Value {
        self.get(&format!("/api/job/{job}/state")).await.ok()
    }

    /// The log of the newest run.
    pub(crate) async fn logs(&self, job: &str) -> Value {
        self.get(&format!("/api/job/{job}/logs")).await.ok()
    }

    /// The log of the newest run, as soon as the job's line is in it.
    pub(crate) async fn log_with(&self, job: &str, line: &str) -> Value {
        let is_there = |answer: &Answer| lines_of_job(&answer.ok()).iter().any(|message| message == line);
        self.until(Method::GET, &format!("/api/job/{job}/logs"), is_there).await.json()
    }

    /// Repeats a request until its answer is what is waited for.
    pub(crate) async fn until(&self, method: Method, path: &str, is_it: impl Fn(&Answer) -> bool) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.send(method.clone(), path).await;
            if is_it(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{method} {path} still answers {}: {}", answer.status, answer.text());
        }
    }

    /// Waits until a token counts.
    pub(crate) async fn until_token(&self, token: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.try_send(Method::GET, "/api/jobs", token).await.expect("an answer").status != 200 {
            assert!(Instant::now() < deadline, "the token is still refused");
        }
    }

    /// Tells the gate job, in the bed, to print a line; `exit CODE` ends it.
    pub(crate) fn gate(&self, line: &str) {
        self.bed.sh(&format!("timeout 20 sh -c 'echo {line} >/var/lib/ci-test/gate'"));
    }

    /// How often the bridge has read the states of all units, as it does whenever systemd was away or has reloaded.
    pub(crate) fn readings(&self) -> usize {
        self.own_log().matches("MESSAGE=the states of all units have been read\n").count()
    }

    /// Waits until the bridge has read all units once more than `before`.
    pub(crate) fn until_read_again(&self, before: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.readings() <= before {
            assert!(Instant::now() < deadline, "the bridge has not read the units again: {}", self.own_log());
        }
    }

    /// What the bridge itself has logged, fields and all.
    pub(crate) fn own_log(&self) -> String {
        self.bed.ok(["journalctl", "--sync"]);
        self.bed.ok(["journalctl", "--output=export", "--all", "_SYSTEMD_UNIT=ci-bridge.service"])
    }
}

/// A connection for each request: the service goes away and comes back in some tests.
fn client(bed: &Bed) -> Client {
    let builder = Client::builder().unix_socket(bed.http_socket()).pool_max_idle_per_host(0);
    builder.timeout(PATIENCE + Duration::from_secs(10)).build().expect("a client without TLS")
}

/// For answers that take as long as they take, but are never silent for long.
fn streams(bed: &Bed) -> Client {
    let builder = Client::builder().unix_socket(bed.http_socket()).pool_max_idle_per_host(0);
    builder.read_timeout(PATIENCE).build().expect("a client without TLS")
}

/// The messages of a log, those of the job alone.
pub(crate) fn lines_of_job(log: &Value) -> Vec<String> {
    messages(log, |entry| entry["source"] == "job")
}

/// The messages of a log, also those of systemd about the job.
pub(crate) fn lines(log: &Value) -> Vec<String> {
    messages(log, |_| true)
}

fn messages(log: &Value, wanted: impl Fn(&Value) -> bool) -> Vec<String> {
    let entries = log["logs"].as_array().expect("an array").iter();
    entries.filter(|entry| wanted(entry)).map(|entry| entry["message"].as_str().expect("text").to_owned()).collect()
}

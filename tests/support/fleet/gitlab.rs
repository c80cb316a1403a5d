//! What a GitLab knows, and how it answers.

use std::collections::BTreeMap;

use axum::http::header;
use serde_json::{Value, json};

use super::{Call, Reply};

#[derive(Default)]
pub(crate) struct GitLab {
    /// The runners by their id, as in their details.
    pub(crate) runners: BTreeMap<u64, Value>,
    /// The managers of runners.
    pub(crate) managers: BTreeMap<u64, Vec<Value>>,
    /// The jobs of runners.
    pub(crate) jobs: BTreeMap<u64, Vec<Value>>,
    /// The authentication tokens of runners.
    pub(crate) runner_tokens: BTreeMap<u64, String>,
    /// The access tokens that it takes.
    pub(crate) tokens: Vec<String>,
    /// Runners whose details the tokens may not see.
    pub(crate) hidden: Vec<u64>,
    /// How often each runner was verified, which counts as a sign of life.
    pub(crate) heartbeats: BTreeMap<u64, u32>,
}

/// A runner of the whole instance.
pub(crate) fn runner(id: u64, description: &str, online: Option<bool>) -> Value {
    let status = match online {
        None => "never_contacted",
        Some(true) => "online",
        Some(false) => "offline",
    };
    json!({
        "id": id, "description": description, "name": null, "ip_address": "", "active": true, "paused": false,
        "is_shared": true, "runner_type": "instance_type", "online": online, "status": status,
        "contacted_at": online.map(|_| "2026-11-21T12:00:00.000Z"), "tag_list": ["linux", "docker"],
        "version": null, "platform": null, "architecture": null, "revision": null, "locked": false,
        "run_untagged": true, "access_level": "not_protected", "maximum_timeout": 3600, "maintenance_note": null,
        "projects": [],
    })
}

/// What a list tells of a runner.
const LISTED: [&str; 10] =
    ["id", "description", "name", "ip_address", "active", "paused", "is_shared", "runner_type", "online", "status"];

impl GitLab {
    /// A GitLab with the token `glpat-good`.
    pub(crate) fn lab(runners: impl IntoIterator<Item = Value>) -> Self {
        Self {
            runners: runners.into_iter().map(|runner| (runner["id"].as_u64().unwrap(), runner)).collect(),
            tokens: vec!["glpat-good".to_owned()],
            ..Self::default()
        }
    }

    pub(super) fn reply(&mut self, call: &Call<'_>) -> Reply {
        let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
        // These are for runners, and take only a runner's token.
        match (call.method, &path[..]) {
            ("POST", ["runners"]) => return Reply::message(410, "410 Gone"),
            ("POST", ["runners", "verify"]) => {
                return self.with_runner_token(call, |gitlab, id| {
                    *gitlab.heartbeats.entry(id).or_default() += 1;
                    Reply::new(200, gitlab.token_of(id))
                });
            }
            ("DELETE", ["runners"]) => {
                return self.with_runner_token(call, |gitlab, id| {
                    gitlab.remove(id);
                    Reply::new(204, Value::Null)
                });
            }
            ("POST", ["runners", "reset_authentication_token"]) => {
                return self.with_runner_token(call, |gitlab, id| {
                    gitlab.renew(id);
                    Reply::new(201, gitlab.token_of(id))
                });
            }
            _ => {}
        }
        let private = call.headers.get("private-token").and_then(|value| value.to_str().ok());
        let bearer =
            call.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        if !self.tokens.iter().any(|known| private.or(bearer) == Some(known)) {
            return Reply::message(401, "401 Unauthorized");
        }
        match (call.method, &path[..]) {
            ("GET", ["runners", "all"] | ["runners"] | ["groups" | "projects", _, "runners"]) => self.list(call),
            ("POST", ["user", "runners"]) => self.create(call.body),
            ("POST", ["projects", project, "runners"]) => {
                let id = call.body["runner_id"].as_u64().unwrap_or_default();
                self.with(id, |runner| {
                    runner["projects"].as_array_mut().unwrap().push(json!({ "path_with_namespace": project }));
                    Reply::new(201, runner.clone())
                })
            }
            ("DELETE", ["projects", _, "runners", id]) => self.with(number(id), |runner| {
                let projects = runner["projects"].as_array_mut().unwrap();
                if projects.len() < 2 {
                    return Reply::message(403, "403 Forbidden - You cannot unassign a runner from the owner project");
                }
                projects.pop();
                Reply::new(204, Value::Null)
            }),
            (_, ["runners", id, rest @ ..]) => self.one(call, number(id), rest),
            _ => Reply::new(404, json!({ "error": "404 Not Found" })),
        }
    }

    fn list(&self, call: &Call<'_>) -> Reply {
        let listed = |runner: &Value| -> Value {
            LISTED.iter().map(|key| ((*key).to_owned(), runner[*key].clone())).collect::<serde_json::Map<_, _>>().into()
        };
        let runners: Vec<Value> = self.runners.values().rev().map(listed).collect();
        let (page, mut headers) = call.page(&runners);
        headers.insert("x-total", runners.len().to_string().parse().unwrap());
        Reply { headers, ..Reply::new(200, page.into()) }
    }

    fn one(&mut self, call: &Call<'_>, id: u64, rest: &[&str]) -> Reply {
        if self.hidden.contains(&id) {
            return Reply::message(403, "403 Forbidden - No access granted");
        }
        match (call.method, rest) {
            ("GET", []) => self.with(id, |runner| Reply::new(200, runner.clone())),
            ("PUT", []) => self.with(id, |runner| {
                if call.body["maximum_timeout"].as_u64().is_some_and(|timeout| timeout < 600) {
                    let message = json!({ "maximum_timeout": ["needs to be at least 10 minutes"] });
                    return Reply::new(400, json!({ "message": message }));
                }
                for (key, value) in call.body.as_object().unwrap() {
                    runner[key] = value.clone();
                }
                Reply::new(200, runner.clone())
            }),
            ("DELETE", []) if self.runners.contains_key(&id) => {
                self.remove(id);
                Reply::new(204, Value::Null)
            }
            ("GET", ["managers"]) => Reply::new(200, self.managers.get(&id).cloned().unwrap_or_default().into()),
            ("GET", ["jobs"]) => {
                let mut jobs = self.jobs.get(&id).cloned().unwrap_or_default();
                jobs.retain(|job| call.query("status").is_none_or(|status| job["status"] == status));
                if call.query("sort") == Some("asc") {
                    jobs.reverse();
                }
                let (page, headers) = call.page(&jobs);
                Reply { headers, ..Reply::new(200, page.into()) }
            }
            ("POST", ["reset_authentication_token"]) if self.runners.contains_key(&id) => {
                self.renew(id);
                Reply::new(201, self.token_of(id))
            }
            _ => Reply::message(404, "404 Not found"),
        }
    }

    fn create(&mut self, body: &Value) -> Reply {
        let kind = body["runner_type"].as_str().unwrap_or_default();
        let complete = match kind {
            "instance_type" => true,
            "group_type" => body["group_id"].is_u64(),
            "project_type" => body["project_id"].is_u64(),
            _ => false,
        };
        if !complete {
            return Reply::new(400, json!({ "error": "runner_type does not have a valid value" }));
        }
        let id = self.runners.keys().last().map_or(1, |last| last + 1);
        let mut runner = runner(id, body["description"].as_str().unwrap_or_default(), None);
        for (key, value) in body.as_object().unwrap() {
            runner[key] = value.clone();
        }
        self.runners.insert(id, runner);
        self.renew(id);
        let mut answer = self.token_of(id);
        answer["id"] = id.into();
        Reply::new(201, answer)
    }

    fn with(&mut self, id: u64, answer: impl FnOnce(&mut Value) -> Reply) -> Reply {
        self.runners.get_mut(&id).map_or_else(|| Reply::message(404, "404 Not found"), answer)
    }

    fn with_runner_token(&mut self, call: &Call<'_>, answer: impl FnOnce(&mut Self, u64) -> Reply) -> Reply {
        let token = call.body["token"].as_str();
        let owner = self.runner_tokens.iter().find(|(_, known)| Some(known.as_str()) == token).map(|(id, _)| *id);
        owner.map_or_else(|| Reply::message(403, "403 Forbidden"), |id| answer(self, id))
    }

    fn token_of(&self, id: u64) -> Value {
        json!({ "id": id, "token": self.runner_tokens[&id], "token_expires_at": null })
    }

    fn renew(&mut self, id: u64) {
        let old = self.runner_tokens.get(&id).map_or(0, String::len);
        self.runner_tokens.insert(id, format!("glrt-{id}-{old}"));
    }

    fn remove(&mut self, id: u64) {
        self.runners.remove(&id);
        self.runner_tokens.remove(&id);
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}

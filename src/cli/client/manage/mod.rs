//! `ci-bridge runners create`, `pause`, `delete` and the like: what changes a runner of GitLab, or asks GitLab about one.
//!
//! Absent on purpose: tokens of runners as arguments. Everyone on the machine could see them.

mod args;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, bail};
use reqwest::Method;
use serde_json::{Map, Value, json};

pub(super) use self::args::Command;
use self::args::{ByIdOrToken, Common, Create, Jobs, Loan, One, Properties, Verify};
use super::bridge::{Bridge, CallError, Server};
use super::{block_on, fetch, plain, print_table, rows};

/// The longest file of a token, in bytes.
const TOKEN_FILE_MAX: u64 = 16 * 1024;

pub(super) fn run(command: &Command, out: &mut impl Write) -> anyhow::Result<()> {
    match command {
        Command::Create(args) => create(args, out),
        Command::Update(args) => {
            let body = Value::Object(args.properties.body());
            change(&args.common, Method::PATCH, &["runners", &args.id.to_string()], Some(&body), "changed", out)
        }
        Command::Pause(One { id, common }) => {
            change(common, Method::POST, &["runners", &id.to_string(), "pause"], None, "paused", out)
        }
        Command::Resume(One { id, common }) => {
            change(common, Method::POST, &["runners", &id.to_string(), "resume"], None, "resumed", out)
        }
        Command::Enable(Loan { id, project, common }) => {
            change(common, Method::PUT, &["runners", &id.to_string(), "projects", project], None, "enabled", out)
        }
        Command::Disable(Loan { id, project, common }) => {
            change(common, Method::DELETE, &["runners", &id.to_string(), "projects", project], None, "disabled", out)
        }
        Command::Delete(args) => match args.target()? {
            Target::Id(id) => change(&args.common, Method::DELETE, &["runners", &id], None, "deleted", out),
            Target::Token { source, body } => {
                change(&args.common, Method::DELETE, &["sources", source, "runners"], Some(&body), "deleted", out)
            }
        },
        Command::Verify(args) => verify(args, out),
        Command::ResetToken(args) => {
            let server = &args.common.server;
            let answer = match args.target()? {
                Target::Id(id) => send(server, Method::POST, &["runners", &id, "reset-token"], None)?,
                Target::Token { source, body } => {
                    send(server, Method::POST, &["sources", source, "runners", "reset-token"], Some(&body))?
                }
            };
            print_token(&answer, &args.common, out)
        }
        Command::Managers(args) => managers(args, out),
        Command::Jobs(args) => jobs(args, out),
    }
}

impl Properties {
    fn body(&self) -> Map<String, Value> {
        let tags = self.tag_list.as_ref().map(|tags| {
            let tags = tags.split(',').map(str::trim).filter(|tag| !tag.is_empty());
            tags.collect::<Vec<_>>()
        });
        let members = [
            self.description.as_ref().map(|text| ("description", json!(text))),
            tags.map(|tags| ("tag_list", json!(tags))),
            self.run_untagged.map(|flag| ("run_untagged", json!(flag))),
            self.paused.map(|flag| ("paused", json!(flag))),
            self.locked.map(|flag| ("locked", json!(flag))),
            self.access_level.as_ref().map(|level| ("access_level", json!(level))),
            self.maximum_timeout.map(|timeout| ("maximum_timeout", json!(timeout.as_secs()))),
            self.maintenance_note.as_ref().map(|note| ("maintenance_note", json!(note))),
        ];
        members.into_iter().flatten().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn create(args: &Create, out: &mut impl Write) -> anyhow::Result<()> {
    let mut body = args.properties.body();
    if let Some(file) = &args.registration_token_file {
        body.insert("token".to_owned(), read_token(file)?.into());
    }
    body.extend(args.kind.as_ref().map(|kind| ("runner_type".to_owned(), format!("{kind}_type").into())));
    body.extend(args.group.map(|group| ("group_id".to_owned(), group.into())));
    body.extend(args.project.map(|project| ("project_id".to_owned(), project.into())));
    let path = ["sources", &args.source, "runners"];
    let answer = send(&args.common.server, Method::POST, &path, Some(&Value::Object(body)))?;
    if !args.common.json {
        eprintln!("created runner {}", text(&answer, "id"));
    }
    print_token(&answer, &args.common, out)
}

fn verify(args: &Verify, out: &mut impl Write) -> anyhow::Result<()> {
    let mut body = Map::from_iter([("token".to_owned(), read_token(&args.token_file)?.into())]);
    body.extend(args.system_id.as_ref().map(|id| ("system_id".to_owned(), id.as_str().into())));
    let path = ["sources", &args.source, "runners", "verify"];
    let answer = send(&args.common.server, Method::POST, &path, Some(&Value::Object(body)))?;
    if args.common.json {
        writeln!(out, "{answer}")?;
        return Ok(());
    }
    let until = answer.get("token_expires_at").and_then(Value::as_str);
    let until = until.map(|until| format!(" until {}", plain(until))).unwrap_or_default();
    writeln!(out, "{}: the token is valid{until}", text(&answer, "id"))?;
    Ok(())
}

fn managers(args: &One, out: &mut impl Write) -> anyhow::Result<()> {
    let answer = fetch(&args.common.server, &["runners", &args.id.to_string(), "managers"], &[])?;
    if args.common.json {
        writeln!(out, "{answer}")?;
        return Ok(());
    }
    let row = |manager: &Value| {
        let [system, status, version, platform, contacted, address] =
            ["system_id", "status", "version", "platform", "contacted_at", "ip_address"]
                .map(|name| text(manager, name));
        [number(manager, "id"), system, status, version, platform, contacted, address]
    };
    let head = ["ID", "SYSTEM", "STATUS", "VERSION", "OS", "CONTACTED", "ADDRESS"];
    print_table(head, rows(&answer, "managers").iter().map(row), out)
}

fn jobs(args: &Jobs, out: &mut impl Write) -> anyhow::Result<()> {
    let limit = args.limit.map(|limit| limit.to_string());
    let params = [("status", args.status.as_deref()), ("order", args.order.as_deref()), ("limit", limit.as_deref())];
    let query: Vec<_> = params.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let answer = fetch(&args.common.server, &["runners", &args.id.to_string(), "jobs"], &query)?;
    if args.common.json {
        writeln!(out, "{answer}")?;
        return Ok(());
    }
    let row = |job: &Value| {
        let took = job.get("duration").and_then(Value::as_f64).map(|took| format!("{took:.1} s"));
        let project = job.get("project").map(|project| text(project, "path_with_namespace"));
        let [status, name, reference, started] =
            ["status", "name", "ref", "started_at"].map(|member| text(job, member));
        [number(job, "id"), status, name, reference, started, took.unwrap_or_default(), project.unwrap_or_default()]
    };
    let head = ["ID", "STATUS", "NAME", "REF", "STARTED", "TOOK", "PROJECT"];
    print_table(head, rows(&answer, "jobs").iter().map(row), out)
}

/// A runner as the API takes it.
enum Target<'a> {
    Id(String),
    Token { source: &'a str, body: Value },
}

impl ByIdOrToken {
    fn target(&self) -> anyhow::Result<Target<'_>> {
        match (&self.id, &self.source, &self.token_file) {
            (Some(id), ..) => Ok(Target::Id(id.to_string())),
            (None, Some(source), Some(file)) => {
                Ok(Target::Token { source, body: json!({ "token": read_token(file)? }) })
            }
            _ => bail!("which runner? give its id, or `--source` and `--token-file`"),
        }
    }
}

/// The token in a file, or in what stands on standard input.
fn read_token(file: &Path) -> anyhow::Result<String> {
    let mut token = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().take(TOKEN_FILE_MAX).read_to_string(&mut token)
    } else {
        File::open(file).and_then(|file| file.take(TOKEN_FILE_MAX).read_to_string(&mut token))
    };
    read.with_context(|| format!("failed to read the token from {}", file.display()))?;
    match token.trim() {
        "" => bail!("there is no token in {}", file.display()),
        token => Ok(token.to_owned()),
    }
}

/// Has something be changed, and says so.
fn change(
    common: &Common,
    method: Method,
    path: &[&str],
    body: Option<&Value>,
    done: &str,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let answer = send(&common.server, method, path, body)?;
    if common.json {
        writeln!(out, "{answer}")?;
    } else {
        let id = answer.get("id").map_or_else(|| "the runner".to_owned(), |_| text(&answer, "id"));
        writeln!(out, "{id}: {done}")?;
    }
    Ok(())
}

/// Sends a change, once.
fn send(server: &Server, method: Method, path: &[&str], body: Option<&Value>) -> anyhow::Result<Value> {
    block_on(async {
        let bridge = Bridge::new(server)?;
        let answer = async { bridge.json(bridge.call(method, path, &[], body).await?).await };
        answer.await.map_err(|error| match error {
            CallError::Unreachable { ref source, .. } if !source.is_connect() => anyhow::Error::new(error)
                .context("the answer was lost; the change may have been made, so look before you repeat it"),
            error => error.into(),
        })
    })
}

/// Prints the token of a runner alone, so that it can go straight to where it is needed.
fn print_token(answer: &Value, common: &Common, out: &mut impl Write) -> anyhow::Result<()> {
    let lost = "the token could not be shown; `ci-bridge runners reset-token` makes another one";
    if common.json {
        return writeln!(out, "{answer}").context(lost);
    }
    writeln!(out, "{}", text(answer, "token")).and_then(|()| out.flush()).context(lost)
}

fn text(value: &Value, member: &str) -> String {
    plain(value.get(member).and_then(Value::as_str).unwrap_or_default())
}

fn number(value: &Value, member: &str) -> String {
    value.get(member).map(Value::to_string).unwrap_or_default()
}

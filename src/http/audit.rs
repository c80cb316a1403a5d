//! The handler of `/api/audit`.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde_json::{Value, json};

use super::authenticate::Auditor;
use super::params::{Params, refuse};
use super::problem::Problem;
use super::{AppState, shape};
use crate::audit::{EntryId, Filter, Kind};
use crate::policy::JobName;

/// Entries of one page if the caller does not say.
const PAGE: u32 = 50;
/// The most entries of one page.
const PAGE_MOST: u32 = 500;

/// `GET /api/audit`
pub(super) async fn list_entries(_: Auditor, State(state): State<AppState>, uri: Uri) -> Result<Json<Value>, Problem> {
    let params = Params::of(&uri, &["before", "limit", "kind", "who", "job", "instance", "run"])?;
    let limit = params.number("limit", 1..=PAGE_MOST)?.unwrap_or(PAGE);
    let before = params.number("before", 1..=i64::MAX)?.map(EntryId::from);
    let filter = filter(&params)?;
    let mut entries = state.audit.page(before, limit + 1, &filter).await?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = entries.len() > most;
    entries.truncate(most);
    let before = entries.last().filter(|_| more).map(|entry| i64::from(entry.id));
    let entries: Vec<_> = entries.iter().map(shape::AuditEntry::of).collect();
    Ok(Json(json!({ "entries": entries, "more": more, "before": before })))
}

fn filter(params: &Params) -> Result<Filter, Problem> {
    let kind = params.choice("kind", &Kind::ALL.map(|kind| (kind.as_str(), kind)))?;
    let who = params.text("who").map(str::parse).transpose();
    let job = params.text("job").map(JobName::parse).transpose()?;
    let job = match (job, params.text("instance")) {
        (Some(job), Some(instance)) => Some(job.with_instance(instance)?),
        (None, Some(_)) => return Err(refuse("`instance` takes a `job`".to_owned())),
        (job, None) => job,
    };
    Ok(Filter {
        kind: kind.map(|kind| kind.as_str().to_owned()),
        who: who.map_err(|error| refuse(format!("`who`: {error}")))?,
        job,
        run: params.run()?,
    })
}

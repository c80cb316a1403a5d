//! The JSON of runners at GitLab, with the names that GitLab gives to what it tells.

use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::runners::gitlab::manage::{Job, Manager, Place, Runner, RunnerToken};
use crate::runners::{ExternalId, RunnerId, SourceName};

pub(super) fn id_of(source: &SourceName, number: u64) -> RunnerId {
    RunnerId::of(source, &ExternalId::new(number.to_string()))
}

pub(super) fn with_token(source: &SourceName, number: u64, token: &RunnerToken) -> Value {
    json!({
        "id": id_of(source, number),
        "external_id": number.to_string(),
        "token": token.token.expose_secret(),
        "token_expires_at": token.expires_at,
    })
}

pub(super) fn details(source: &SourceName, runner: &Runner) -> Value {
    json!({
        "id": id_of(source, runner.id),
        "source": source.as_str(),
        "external_id": runner.id.to_string(),
        "description": runner.description,
        "runner_type": runner.kind.map(|kind| format!("{}_type", kind.as_str())),
        "paused": runner.paused,
        "online": runner.online,
        "status": runner.status,
        "contacted_at": runner.contacted_at,
        "tag_list": runner.tags,
        "run_untagged": runner.run_untagged,
        "locked": runner.locked,
        "access_level": runner.access_level,
        "maximum_timeout": runner.maximum_timeout,
        "maintenance_note": runner.maintenance_note,
        "projects": runner.projects.iter().map(place).collect::<Vec<_>>(),
        "groups": runner.groups.iter().map(place).collect::<Vec<_>>(),
    })
}

fn place(place: &Place) -> Value {
    json!({ "id": place.id, "path_with_namespace": place.path_with_namespace, "name": place.name })
}

pub(super) fn manager(manager: &Manager) -> Value {
    json!({
        "id": manager.id,
        "system_id": manager.system_id,
        "version": manager.version,
        "platform": manager.platform,
        "architecture": manager.architecture,
        "created_at": manager.created_at,
        "contacted_at": manager.contacted_at,
        "ip_address": manager.ip_address,
        "status": manager.status,
    })
}

pub(super) fn job(job: &Job) -> Value {
    json!({
        "id": job.id,
        "name": job.name,
        "stage": job.stage,
        "status": job.status,
        "ref": job.reference,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "duration": job.duration,
        "queued_duration": job.queued_duration,
        "web_url": job.web_url,
        "project": job.project.as_ref().map(place),
    })
}

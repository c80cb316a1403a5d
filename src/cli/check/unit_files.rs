//! The allowed units as systemd sees them: which of them the bridge will not start, and what their settings are.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::finding::Finding;
use super::lines::Job;
use crate::policy::Policy;
use crate::systemd::{BusAddress, Error, StartError, Systemd};
use crate::telemetry::Chain;

const PATIENCE: Duration = Duration::from_secs(10);

/// A template is looked at by this instance, which is loaded and not started.
const PROBE: &str = "probe";

/// Looks at every allowed unit that has a unit file or is in systemd's memory; also returns the jobs that can be started.
pub(super) fn run(policy: &Policy) -> (Vec<Finding>, Vec<Job>) {
    const REMEDY: &str = "is systemd running here? systemctl is-system-running";
    let failure = |error: String| (vec![Finding::failure("units", error, REMEDY)], Vec::new());
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(look(policy)).unwrap_or_else(|error| failure(Chain(&error).to_string())),
        Err(error) => failure(error.to_string()),
    }
}

async fn look(policy: &Policy) -> Result<(Vec<Finding>, Vec<Job>), Error> {
    let systemd = Systemd::new(BusAddress::System, policy.clone(), Arc::new(|_, _, _| {}), PATIENCE);
    let stop = CancellationToken::new();
    let looking = async {
        tokio::time::timeout(PATIENCE, systemd.ready()).await.map_err(|_elapsed| Error::Unreachable(None))?;
        let mut findings = Vec::new();
        let mut startable = Vec::new();
        for listed in systemd.jobs().await? {
            let name =
                if listed.name.is_template() { listed.name.with_instance(PROBE) } else { Ok(listed.name.clone()) };
            let Some(job) = name.ok().and_then(|name| policy.admit(&name).ok()) else { continue };
            match systemd.inspect(&job).await {
                Ok(()) | Err(StartError::Busy) => {
                    startable.push(Job::new(&listed.name, systemd.log_settings(&job).await?));
                }
                Err(StartError::Systemd(error)) => return Err(error),
                Err(error) => {
                    let unit = listed.name.unit();
                    let remedy = format!("the bridge will not start it; see: systemctl status {}", job.unit());
                    findings.push(Finding::warning(&format!("unit {unit}"), error.to_string(), &remedy));
                }
            }
        }
        findings.insert(0, Finding::ok("units", format!("{} jobs can be started", startable.len())));
        Ok((findings, startable))
    };
    tokio::select! {
        findings = looking => findings,
        () = systemd.run(stop) => Err(Error::Unreachable(None)),
    }
}

//! The allowed units as systemd sees them: which of them the bridge will not start, and what their settings are.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::finding::Finding;
use super::inputs::Loaded;
use super::lines::Job;
use crate::policy::Policy;
use crate::systemd::{BusAddress, Error, StartError, Systemd};
use crate::telemetry::Chain;

const PATIENCE: Duration = Duration::from_secs(10);

/// A template is looked at by this instance, which is loaded and not started.
const PROBE: &str = "probe";

/// What was found, and the jobs that can be started.
#[derive(Default)]
pub(super) struct Units {
    pub(super) findings: Vec<Finding>,
    pub(super) jobs: Vec<Job>,
    pub(super) loaded: Vec<Loaded>,
}

/// Looks at every allowed unit that has a unit file or is in systemd's memory.
pub(super) fn run(policy: &Policy) -> Units {
    const REMEDY: &str = "is systemd running here? systemctl is-system-running";
    let failure =
        |error: String| Units { findings: vec![Finding::failure("units", error, REMEDY)], ..Units::default() };
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(look(policy)).unwrap_or_else(|error| failure(Chain(&error).to_string())),
        Err(error) => failure(error.to_string()),
    }
}

async fn look(policy: &Policy) -> Result<Units, Error> {
    let systemd = Systemd::new(BusAddress::System, policy.clone(), Arc::new(|_, _, _| {}), PATIENCE);
    let stop = CancellationToken::new();
    let looking = async {
        tokio::time::timeout(PATIENCE, systemd.ready()).await.map_err(|_elapsed| Error::Unreachable(None))?;
        let mut units = Units::default();
        for listed in systemd.jobs().await? {
            let name =
                if listed.name.is_template() { listed.name.with_instance(PROBE) } else { Ok(listed.name.clone()) };
            let Some(job) = name.ok().and_then(|name| policy.admit(&name).ok()) else { continue };
            match systemd.inspect(&job).await {
                Ok(()) | Err(StartError::Busy) => {
                    units.jobs.push(Job::new(&listed.name, systemd.log_settings(&job).await?));
                    units.loaded.push(Loaded { job: listed.name, credentials: systemd.credentials(&job).await? });
                }
                Err(StartError::Systemd(error)) => return Err(error),
                Err(error) => {
                    let unit = listed.name.unit();
                    let remedy = format!("the bridge will not start it; see: systemctl status {}", job.unit());
                    units.findings.push(Finding::warning(&format!("unit {unit}"), error.to_string(), &remedy));
                }
            }
        }
        units.findings.insert(0, Finding::ok("units", format!("{} jobs can be started", units.jobs.len())));
        Ok(units)
    };
    tokio::select! {
        units = looking => units,
        () = systemd.run(stop) => Err(Error::Unreachable(None)),
    }
}

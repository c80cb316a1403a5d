//! The allowed units as systemd sees them: which of them the bridge will not start, and why.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::finding::Finding;
use crate::policy::Policy;
use crate::systemd::{BusAddress, Error, StartError, Systemd};
use crate::telemetry::Chain;

const PATIENCE: Duration = Duration::from_secs(10);

/// Looks at every allowed unit that has a unit file.
pub(super) fn run(policy: &Policy) -> Vec<Finding> {
    const REMEDY: &str = "is systemd running here? systemctl is-system-running";
    let failure = |error: String| vec![Finding::failure("units", error, REMEDY)];
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(look(policy)).unwrap_or_else(|error| failure(Chain(&error).to_string())),
        Err(error) => failure(error.to_string()),
    }
}

async fn look(policy: &Policy) -> Result<Vec<Finding>, Error> {
    let systemd = Systemd::new(BusAddress::System, policy.clone(), Arc::new(|_, _, _| {}));
    let stop = CancellationToken::new();
    let looking = async {
        tokio::time::timeout(PATIENCE, systemd.ready()).await.map_err(|_elapsed| Error::Unreachable(None))?;
        let mut findings = Vec::new();
        let mut startable = 0;
        for listed in systemd.jobs().await? {
            let Ok(job) = policy.admit(&listed.name) else { continue };
            if listed.name.is_template() {
                startable += 1;
                continue;
            }
            match systemd.inspect(&job).await {
                Ok(()) | Err(StartError::Busy) => startable += 1,
                Err(StartError::Systemd(error)) => return Err(error),
                Err(error) => {
                    let subject = format!("unit {}", job.unit());
                    let remedy = format!("the bridge will not start it; see: systemctl status {}", job.unit());
                    findings.push(Finding::warning(&subject, error.to_string(), &remedy));
                }
            }
        }
        findings.insert(0, Finding::ok("units", format!("{startable} jobs can be started")));
        Ok(findings)
    };
    tokio::select! {
        findings = looking => findings,
        () = systemd.run(stop) => Err(Error::Unreachable(None)),
    }
}

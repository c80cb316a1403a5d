//! A message bus of its own: a `dbus-daemon` that ends with the test.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A bus at an address that stays the same when the daemon is started anew.
pub(crate) struct Bus {
    directory: TempDir,
    daemon: Option<Child>,
}

impl Bus {
    pub(crate) fn start() -> Self {
        let mut bus = Self { directory: TempDir::new().unwrap(), daemon: None };
        let config = format!(
            "<busconfig><type>session</type><listen>{}</listen><auth>EXTERNAL</auth><policy context='default'>\
             <allow user='*'/><allow own='*'/><allow send_destination='*'/><allow send_type='signal'/>\
             <allow receive_sender='*'/></policy></busconfig>",
            bus.address()
        );
        fs::write(bus.path("bus.conf"), config).unwrap();
        bus.revive();
        bus
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn address(&self) -> String {
        format!("unix:path={}", self.path("bus").display())
    }

    /// Starts the daemon and returns when it takes connections.
    pub(crate) fn revive(&mut self) {
        let mut daemon = Command::new("dbus-daemon")
            .args(["--nofork", "--nopidfile", "--nosyslog", "--print-address"])
            .arg(format!("--config-file={}", self.path("bus.conf").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Nobody but root may have as many files open as it would like to; it says so each time.
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon of the package dbus is needed");
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        assert!(address.starts_with("unix:"), "dbus-daemon did not start");
        self.daemon = Some(daemon);
    }

    /// Kills the daemon; every connection is cut.
    pub(crate) fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
            fs::remove_file(self.path("bus")).unwrap();
        }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.kill();
    }
}

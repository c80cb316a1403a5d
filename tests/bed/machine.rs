//! A handle on a bed: boots it, runs commands in it, and takes it away when dropped.
//!
//! All the knowledge of how a bed is made is in the script `tests/bed/bed`; this is the thinnest way to use it from Rust.
//! The supervisor's standard input is a pipe that only this process holds open, so a test that fails, is interrupted or
//! is killed takes its beds with it.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

/// The script that makes and enters beds.
pub(crate) const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bed/bed");

/// A name that no other bed of this host has.
pub(crate) fn fresh_name() -> String {
    static BEDS: AtomicU32 = AtomicU32::new(0);
    format!("t{}-{}", process::id(), BEDS.fetch_add(1, Ordering::Relaxed))
}

/// What a bed is to be like, before it is booted.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    options: Vec<String>,
}

impl Plan {
    /// Installs the product's package, as `apt-get install ./ci-bridge.deb` does; it is neither configured nor started.
    ///
    /// The package is the file that `CI_BRIDGE_DEB` names, or what `make deb` has left in `target/debian`.
    pub(crate) fn package(self) -> Self {
        let package = package();
        self.option("--deb", package.to_str().expect("a path in UTF-8"))
    }

    /// Adds a setting to `journald.conf`, such as `Storage=volatile`; `Storage=persistent` is what a bed has without it.
    pub(crate) fn journald(self, setting: &str) -> Self {
        self.option("--journald", setting)
    }

    fn option(mut self, name: &str, value: &str) -> Self {
        self.options.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// Boots the bed and returns when its start-up is over, within seconds.
    pub(crate) fn boot(self) -> Bed {
        let name = fresh_name();
        let mut supervisor = Command::new(SCRIPT)
            .args(["up", &name])
            .args(self.options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A runner that kills the process group of a test must leave the supervisor time to clean up.
            .process_group(0)
            .spawn()
            .expect("tests/bed/bed can be executed");
        let life = supervisor.stdin.take();
        let facts: Vec<String> = BufReader::new(supervisor.stdout.take().expect("a pipe"))
            .lines()
            .map(|line| line.expect("text"))
            .take_while(|line| line != "ready")
            .collect();
        let bed = Bed { name, supervisor, life };
        assert!(facts.contains(&"state=running".to_owned()), "the bed did not boot ({facts:?}); try: {SCRIPT} check");
        bed
    }
}

/// A booted bed. It is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Bed {
    name: String,
    supervisor: Child,
    life: Option<ChildStdin>,
}

impl Bed {
    /// A bed without the package.
    pub(crate) fn plain() -> Self {
        Plan::default().boot()
    }

    /// A bed with the package installed, not yet configured.
    pub(crate) fn installed() -> Self {
        Plan::default().package().boot()
    }

    /// The bed's name, which is also its host name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The process id of the bed's PID 1, as the host sees it. It changes with [`Bed::crash`].
    pub(crate) fn leader(&self) -> String {
        text(script(["leader", &self.name]).output()).trim().to_owned()
    }

    /// Runs a command in the bed as root, outside of any unit, and returns whatever it came to.
    pub(crate) fn enter<I: IntoIterator<Item: AsRef<OsStr>>>(&self, command: I) -> Output {
        self.command(command).output().expect("the script runs")
    }

    /// As [`Bed::enter`], but not yet started: for a command that runs beside the test or reads its standard input.
    pub(crate) fn command<I: IntoIterator<Item: AsRef<OsStr>>>(&self, command: I) -> Command {
        let mut script = script(["enter", &self.name, "--"]);
        script.args(command);
        script
    }

    /// Runs a command in the bed as root, and returns its standard output; a test fails where the command does.
    pub(crate) fn ok<I: IntoIterator<Item: AsRef<OsStr>>>(&self, command: I) -> String {
        text(self.command(command).output())
    }

    /// Runs a shell script in the bed as root, as [`Bed::ok`] does.
    pub(crate) fn sh(&self, script: &str) -> String {
        self.ok(["bash", "-euo", "pipefail", "-c", script])
    }

    /// Runs a command in the bed as a user of the bed, in a unit of its own as any service is.
    pub(crate) fn run_as<I: IntoIterator<Item: AsRef<OsStr>>>(&self, user: &str, command: I) -> Output {
        script(["run", &self.name, user, "--"]).args(command).output().expect("the script runs")
    }

    /// Reads a file of the bed.
    pub(crate) fn read(&self, path: &str) -> String {
        self.ok(["cat", path])
    }

    /// Writes a file of the bed.
    ///
    /// By a command in the bed and not through `/proc/PID/root`: there a symbolic link would lead to the host.
    pub(crate) fn write(&self, path: &str, content: &str) {
        let mut tee = self.command(["tee", path]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("tee");
        tee.stdin.take().expect("a pipe").write_all(content.as_bytes()).expect("the file can be written");
        assert!(tee.wait().expect("tee ends").success(), "{path} was not written");
    }

    /// Waits until a line of a unit's log contains a text; a test fails when that takes longer than 30 s.
    pub(crate) fn await_log(&self, unit: &str, text: &str) {
        self.ok([
            "timeout",
            "30",
            "bash",
            "-c",
            r#"exec 3< <(exec journalctl -f --no-tail -o cat -u "$1"); grep -qm 1 -F -- "$2" <&3; kill $!"#,
            "bash",
            unit,
            text,
        ]);
    }

    /// A unix socket on the host that leads to port 8000 of the bed's own loopback.
    pub(crate) fn http_socket(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/run/bed/http.sock", self.leader()))
    }

    /// A client for which any host is port 8000 of the bed; `http://bridge/healthz` is an address.
    pub(crate) fn http(&self) -> reqwest::Client {
        reqwest::Client::builder()
            .unix_socket(self.http_socket())
            .timeout(Duration::from_mins(1))
            .build()
            .expect("a client without TLS")
    }

    /// Pulls the plug and boots again from the same disk.
    pub(crate) fn crash(&self) {
        text(script(["crash", &self.name]).output());
    }

    /// Shuts down in order, as `systemctl poweroff` does, and returns when nothing of the bed is left.
    pub(crate) fn down(self) {
        text(script(["down", &self.name]).output());
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        drop(self.life.take());
        drop(self.supervisor.wait());
    }
}

fn script<const N: usize>(arguments: [&str; N]) -> Command {
    let mut script = Command::new(SCRIPT);
    script.args(arguments).stdin(Stdio::null());
    script
}

fn text(output: std::io::Result<Output>) -> String {
    let output = output.expect("the script runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}{}", output.status, String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).expect("text")
}

fn package() -> PathBuf {
    if let Some(package) = env::var_os("CI_BRIDGE_DEB") {
        return package.into();
    }
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = fs::read_dir(project.join("target/debian")).into_iter().flatten().flatten().map(|file| file.path());
    let package = packages
        .filter(|path| path.extension() == Some(OsStr::new("deb")))
        .max_by_key(|path| modified(path))
        .expect("no package in target/debian: run `make deb`");
    assert!(newest(&project.join("src")) < modified(&package), "the package is older than src: run `make deb`");
    package
}

fn newest(directory: &Path) -> SystemTime {
    let files = fs::read_dir(directory).expect("a directory").map(|file| file.expect("a file").path());
    files.map(|path| if path.is_dir() { newest(&path) } else { modified(&path) }).max().expect("a file")
}

fn modified(path: &Path) -> SystemTime {
    path.metadata().and_then(|facts| facts.modified()).expect("a time")
}

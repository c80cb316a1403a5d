//! Hands the inputs of jobs to systemd, which hands them to the units as credentials.
//!
//! A unit names this socket in `LoadCredential=NAME:/run/ci-bridge/inputs.sock`. When systemd starts the unit, it connects
//! from an abstract address that says who it asks for, reads to the end, and shows the unit the text as a file that only
//! the unit's user can read. So no file of the bridge, no command line and no environment carries a value.
//!
//! Only root is believed: anybody can bind an address, but not as root. Absent on purpose: any other way to ask.

use std::fmt;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::inputs::InputName;
use crate::policy::{AllowedJob, JobName, Policy};

/// Where systemd finds the inputs of units.
pub const SOCKET: &str = "/run/ci-bridge/inputs.sock";

const ROOT: u32 = 0;
/// Questions that are answered at once; more wait.
const AT_ONCE: usize = 64;
/// How long a value may be looked for.
const LOOKUP: Duration = Duration::from_secs(12);
/// How long systemd may take to read an answer, which it does as fast as it can.
const READING: Duration = Duration::from_mins(1);
/// The pause after a failed accept, which mostly means that there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// One byte more than systemd takes for a credential. An empty answer would be an empty credential, and the job would run
/// without what it needs; this one makes the start fail.
///
/// Source: `CREDENTIAL_SIZE_MAX`, and `CREDENTIALS_BYTES_MAX` before systemd 250.
const REFUSAL: usize = 1024 * 1024 + 1;

/// Binds the socket at `path`, in the place of one that an earlier process left; only root and the owner may connect.
///
/// # Errors
/// What the system said.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers systemd with what `value_of` says, until `stop` is cancelled; then answers those who have asked already.
///
/// An error of `value_of` makes the start of the unit fail, and is logged.
pub async fn serve<F, E>(
    listener: UnixListener,
    policy: Policy,
    value_of: impl Fn(AllowedJob, InputName) -> F + Clone + Send + Sync + 'static,
    stop: CancellationToken,
) where
    F: Future<Output = Result<String, E>> + Send,
    E: fmt::Display + Send,
{
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let answers = TaskTracker::new();
    loop {
        let accepting = async {
            let permit = permits.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepting => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (policy, value_of) = (policy.clone(), value_of.clone());
                answers.spawn(async move {
                    if let Err(error) = answer(stream, ROOT, &policy, value_of).await {
                        log::warn!("an input was not handed over: {error}");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                log::warn!("a question for an input could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    answers.close();
    // A connection that just ends is an empty value to systemd.
    answers.wait().await;
}

/// Answers one question of the user `trusted`.
async fn answer<F, E>(
    mut stream: UnixStream,
    trusted: u32,
    policy: &Policy,
    value_of: impl Fn(AllowedJob, InputName) -> F,
) -> io::Result<()>
where
    F: Future<Output = Result<String, E>>,
    E: fmt::Display,
{
    let user = stream.peer_cred()?.uid();
    if user != trusted {
        log::warn!("the user {user} asked for an input of a job and was told nothing");
        return Ok(());
    }
    let address = stream.peer_addr()?;
    let Some(question) = address.as_abstract_name().and_then(Question::parse) else {
        log::warn!("somebody who is not systemd asked for an input of a job and was told nothing");
        return Ok(());
    };
    let Some((job, input)) = question.admit(policy) else {
        log::warn!("{} asked for `{}`, but no job of that name has inputs", question.unit, question.credential);
        return refuse(&mut stream).await;
    };
    let why = match tokio::time::timeout(LOOKUP, value_of(job.clone(), input.clone())).await {
        Ok(Ok(value)) => return send(&mut stream, value.as_bytes()).await,
        Ok(Err(error)) => error.to_string(),
        Err(_elapsed) => "its value was not found in time".to_owned(),
    };
    log::warn!(job = job.name().as_str(); "{} does not start, because it asked for `{input}`: {why}", job.name());
    refuse(&mut stream).await
}

/// Has the start of the unit fail.
async fn refuse(stream: &mut UnixStream) -> io::Result<()> {
    match send(stream, &vec![0; REFUSAL]).await {
        // Who has read enough goes.
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
        sent => sent,
    }
}

async fn send(stream: &mut UnixStream, bytes: &[u8]) -> io::Result<()> {
    tokio::time::timeout(READING, stream.write_all(bytes)).await?
}

/// What systemd asks for: the name of a credential, for a unit.
#[derive(Debug, PartialEq, Eq)]
struct Question<'a> {
    unit: &'a str,
    credential: &'a str,
}

impl<'a> Question<'a> {
    /// Reads an address without its leading NUL, such as `adf9d86b6eda275e/unit/foobar.service/credx`.
    ///
    /// Source: `LoadCredential=` in `systemd.exec(5)`.
    fn parse(address: &'a [u8]) -> Option<Self> {
        let (random, names) = std::str::from_utf8(address).ok()?.split_once("/unit/")?;
        let (unit, credential) = names.split_once('/')?;
        let is_random = !random.is_empty() && random.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (is_random && !unit.is_empty() && !credential.is_empty()).then_some(Self { unit, credential })
    }

    /// The job and its input, if there can be such.
    fn admit(&self, policy: &Policy) -> Option<(AllowedJob, InputName)> {
        let job = policy.admit(&JobName::from_unit(self.unit).ok()?).ok()?;
        Some((job, InputName::parse(self.credential).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;

    use socket2::{Domain, SockAddr, Socket, Type};

    use super::*;
    use crate::policy::Prefix;

    fn policy() -> Policy {
        Policy::new(vec![Prefix::parse("ci-test-").unwrap()])
    }

    fn own_user() -> u32 {
        std::fs::metadata("/proc/self").unwrap().uid()
    }

    /// What is read from an address by systemd, and whether anybody was asked about the job.
    async fn asked_from(address: &str, trusted: u32) -> (Vec<u8>, bool) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inputs.sock");
        let listener = bind(&path).unwrap();
        let address = address.replace("RANDOM", &uuid::Uuid::now_v7().simple().to_string());
        let reading = tokio::task::spawn_blocking(move || {
            let mut socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            if !address.is_empty() {
                socket.bind(&SockAddr::unix(format!("\0{address}")).unwrap()).unwrap();
            }
            socket.connect(&SockAddr::unix(path).unwrap()).unwrap();
            socket.shutdown(std::net::Shutdown::Write).unwrap();
            let mut read = Vec::new();
            socket.read_to_end(&mut read).unwrap();
            read
        });
        let (stream, _) = listener.accept().await.unwrap();
        let asked = std::sync::atomic::AtomicBool::new(false);
        let value_of = |job: AllowedJob, input: InputName| {
            asked.store(true, std::sync::atomic::Ordering::Relaxed);
            async move {
                let known = input.as_str() == "version";
                if known { Ok(format!("v1 of {}\n", job.name())) } else { Err("the job has no such input") }
            }
        };
        answer(stream, trusted, &policy(), value_of).await.unwrap();
        (reading.await.unwrap(), asked.into_inner())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn systemd_gets_the_value_and_the_end() {
        let (value, _) = asked_from("RANDOM/unit/ci-test-a.service/version", own_user()).await;
        assert_eq!(value, b"v1 of ci-test-a\n");
        let (value, _) = asked_from(r"RANDOM/unit/ci-test-a@feature-a\x2db.service/version", own_user()).await;
        assert_eq!(
            value,
            br"v1 of ci-test-a@feature-a\x2db
"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn another_user_is_told_nothing() {
        let (value, asked) = asked_from("RANDOM/unit/ci-test-a.service/version", own_user() + 1).await;
        assert_eq!((value, asked), (Vec::new(), false));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_address_that_is_not_systemds_is_told_nothing() {
        for address in ["", "RANDOM", "RANDOM/unit/ci-test-a.service", "/unit/ci-test-a.service/version"] {
            let (value, asked) = asked_from(address, own_user()).await;
            assert_eq!((value.len(), asked), (0, false), "{address}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_unit_that_must_not_start_gets_more_than_systemd_takes() {
        for (address, is_job) in [
            ("RANDOM/unit/ci-test-a.service/other", true),
            ("RANDOM/unit/ci-test-a.service/Version", false),
            ("RANDOM/unit/ci-test-a.service/a/version", false),
            ("RANDOM/unit/sshd.service/version", false),
            ("RANDOM/unit/ci-test-a.socket/version", false),
        ] {
            let (value, asked) = asked_from(address, own_user()).await;
            assert_eq!((value.len(), asked), (REFUSAL, is_job), "{address}");
        }
    }

    #[tokio::test]
    async fn only_the_owner_may_connect_and_a_socket_that_was_left_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inputs.sock");
        drop(bind(&path).unwrap());
        let _again = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        std::fs::write(directory.path().join("file"), "").unwrap();
        assert!(bind(&directory.path().join("file")).is_err());
    }
}

//! A place in the log of one run, as callers see it: opaque, and worth nothing for another job.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::invocation::InvocationId;
use crate::journal::Position;
use crate::policy::AllowedJob;

const VERSION: u8 = 1;
const TAG: usize = 8;
/// The longest cursor, before it becomes text.
const LEN_MAX: usize = 1 + 16 + Position::LEN + TAG;

/// The text is no cursor, or it belongs to another job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is damaged or belongs to another job; pass one exactly as an answer of this job gave it")]
pub struct NotACursor;

/// A place in the log of a run: after an entry, or before the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The run.
    pub invocation: InvocationId,
    /// The entry after which to go on; `None` for the beginning.
    pub after: Option<Position>,
}

impl Cursor {
    /// The text for callers: unpadded base64url.
    #[must_use]
    pub fn encode(&self, job: &AllowedJob) -> String {
        let mut bytes = Vec::with_capacity(LEN_MAX);
        bytes.push(VERSION);
        bytes.extend(self.invocation.as_bytes());
        if let Some(after) = &self.after {
            bytes.extend(after.to_bytes());
        }
        bytes.extend(tag(job, &bytes));
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a text that [`Cursor::encode`] made for `job`.
    ///
    /// # Errors
    /// [`NotACursor`] for anything else.
    pub fn decode(job: &AllowedJob, text: &str) -> Result<Self, NotACursor> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| NotACursor)?;
        let (body, given) = bytes.split_last_chunk::<TAG>().ok_or(NotACursor)?;
        if *given != tag(job, body) {
            return Err(NotACursor);
        }
        let [VERSION, rest @ ..] = body else { return Err(NotACursor) };
        let (invocation, position) = rest.split_first_chunk::<16>().ok_or(NotACursor)?;
        let after = match position {
            [] => None,
            bytes => Some(Position::from_bytes(bytes.try_into().map_err(|_| NotACursor)?)),
        };
        Ok(Self { invocation: InvocationId::from_bytes(invocation).ok_or(NotACursor)?, after })
    }
}

/// Binds a cursor to its job and shows damage. Not a secret: a forged cursor reaches only entries of the same job.
fn tag(job: &AllowedJob, body: &[u8]) -> [u8; TAG] {
    let digest = Sha256::new().chain_update(job.unit()).chain_update([0]).chain_update(body).finalize();
    let mut tag = [0; TAG];
    tag.copy_from_slice(&digest[..TAG]);
    tag
}

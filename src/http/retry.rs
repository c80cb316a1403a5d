//! `Idempotency-Key`: a request that is sent again because its answer was lost does nothing again.
//!
//! Source: the IETF draft "The Idempotency-Key HTTP Header Field".

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use sha2::{Digest, Sha256};

use super::edge::Outcome;
use super::problem::Problem;
use crate::jobs::{Answer, Attempt, Attempted, Jobs, Run, UnderWay};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest key, in bytes.
const KEY_MOST: usize = 255;
/// The largest answer that is kept, in bytes; those to a start are much smaller.
const ANSWER_MOST: usize = 64 * 1024;

/// Why a request with a key is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotRetried {
    /// The header is no key.
    Malformed,
    /// The key stands for another request.
    Mismatch,
    /// The request is being carried out.
    InProgress,
}

/// The key of a request; `None` if it has none. A string in quotes, as the draft has it, and the same without quotes are
/// one key.
///
/// # Errors
/// [`NotRetried::Malformed`]
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, NotRetried> {
    let mut values = headers.get_all(KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().ok().filter(|_| values.next().is_none()).ok_or(NotRetried::Malformed)?;
    let key = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let is_key = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    if key.is_empty() || key.len() > KEY_MOST || !key.bytes().all(is_key) {
        return Err(NotRetried::Malformed);
    }
    Ok(Some(key.to_owned()))
}

/// What a request asks for, as a hash.
pub(super) fn payload(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Carries a request out once, however often it is sent: `work` for the first attempt, and `began` to answer for a run to
/// which an attempt came that was never answered.
///
/// What came to nothing may be tried again, so only an answer that is no error is kept.
pub(super) async fn once(
    jobs: &Jobs,
    attempt: Attempt,
    payload: [u8; 32],
    work: impl Future<Output = Result<Response, Problem>>,
    began: impl FnOnce(&Run) -> Response,
) -> Result<Response, Problem> {
    match jobs.attempt(attempt, payload).await? {
        Attempted::New(under_way) => match work.await {
            Ok(response) => Ok(keep(under_way, response).await),
            Err(problem) => {
                under_way.release().await;
                Err(problem)
            }
        },
        Attempted::Began(under_way, run) => Ok(replayed(keep(under_way, began(&run)).await)),
        Attempted::Replay(answer) => Ok(replay(answer)),
        Attempted::Busy => Err(NotRetried::InProgress.into()),
        Attempted::Mismatch => Err(NotRetried::Mismatch.into()),
    }
}

async fn keep(under_way: UnderWay, response: Response) -> Response {
    let (parts, body) = response.into_parts();
    // The body is in memory already.
    let body = to_bytes(body, ANSWER_MOST).await.unwrap_or_default();
    let text = |(name, value): (&HeaderName, &HeaderValue)| Some((name.to_string(), value.to_str().ok()?.to_owned()));
    let headers = parts.headers.iter().filter_map(text).collect();
    under_way.answer(Answer { status: parts.status.as_u16(), headers, body: body.to_vec() }).await;
    Response::from_parts(parts, Body::from(body))
}

fn replay(answer: Answer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    for (name, value) in &answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            response.headers_mut().append(name, value);
        }
    }
    replayed(response)
}

fn replayed(mut response: Response) -> Response {
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response.extensions_mut().insert(Outcome("replayed"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (KEY, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_key_is_a_word_with_or_without_quotes() {
        for wrong in ["", "\"\"", "a b", "\"a", "a\"b", "a\\b", &"a".repeat(256)] {
            assert_eq!(key(&headers(&[wrong])), Err(NotRetried::Malformed), "{wrong:?}");
        }
        assert_eq!(key(&headers(&["a", "a"])), Err(NotRetried::Malformed));
        assert_eq!(key(&headers(&[])), Ok(None));
        for right in ["a-1", "\"a-1\""] {
            assert_eq!(key(&headers(&[right])), Ok(Some("a-1".to_owned())));
        }
    }

    #[test]
    fn parts_do_not_run_into_one_another() {
        assert_ne!(payload(&["ab", "c"]), payload(&["a", "bc"]));
        assert_eq!(payload(&["ab", "c"]), payload(&["ab", "c"]));
    }
}

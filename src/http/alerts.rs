//! The handlers of `/api/alerts`: what is to be told, and what became of it.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::authenticate::Writer;
use super::edge::Outcome;
use super::params::Params;
use super::problem::Problem;
use super::runners::shorten;
use super::{AppState, shape};
use crate::fleet::{DeliveryFilter, DeliveryId};

/// Messages of one page if the caller does not say.
const PAGE: u32 = 50;
/// The most messages of one page.
const PAGE_MOST: u32 = 500;

/// There is no such message that was given up.
pub(super) struct NotGivenUp;

/// `GET /api/alerts`
pub(super) async fn list_alerts(_: Writer, State(state): State<AppState>, uri: Uri) -> Result<Json<Value>, Problem> {
    let params = Params::of(&uri, &["state", "limit", "before"])?;
    let filter = params.choice("state", &[("all", DeliveryFilter::All), ("dead", DeliveryFilter::Dead)])?;
    let limit = params.number("limit", 1..=PAGE_MOST)?.unwrap_or(PAGE);
    let before = params.number("before", 1..=i64::MAX)?.map(DeliveryId::from);
    let filter = filter.unwrap_or(DeliveryFilter::All);
    let mut alerts = state.runners.deliveries(filter, before, limit + 1).await?;
    let more = shorten(&mut alerts, limit);
    let before = alerts.last().filter(|_| more).map(|alert| i64::from(alert.id));
    let alerts: Vec<_> = alerts.iter().map(shape::Message::of).collect();
    Ok(Json(json!({ "alerts": alerts, "more": more, "before": before })))
}

/// `POST /api/alerts/{id}/replay`
pub(super) async fn replay_alert(
    _: Writer,
    State(state): State<AppState>,
    path: Result<Path<i64>, PathRejection>,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::of(&uri, &[])?;
    let Path(id) = path.map_err(|_| NotGivenUp)?;
    if !state.runners.replay(id.into()).await? {
        return Err(NotGivenUp.into());
    }
    let mut response = (StatusCode::ACCEPTED, Json(json!({ "msg": "Alert is sent again", "id": id }))).into_response();
    response.extensions_mut().insert(Outcome("replayed"));
    Ok(response)
}

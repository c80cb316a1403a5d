//! Runners of GitLab: of a whole instance, those that a token may manage, or those that a group or a project may use.
//!
//! Source: GitLab, "Runners API". Deliberately absent: `POST /runners/verify` as a way to see whether a runner is there.
//! It counts as a sign of life of the runner, and would make a dead one look alive.

mod details;
pub mod manage;
mod shape;

use std::path::Path;

use jiff::Timestamp;
use reqwest::Url;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;

use self::details::{Changed, Details};
use self::manage::Management;
use crate::config::{ApiUrl, GitLabAuth, GitLabScope, RunnerSource, SecretPlace};
use crate::runners::list::{List, Page};
use crate::runners::poll::{Poll, PollError};
use crate::runners::secret::Secret;
use crate::runners::seen::Seen;
use crate::runners::service::{Answer, Service, Terms};
use crate::runners::{OpenError, header};

const PRIVATE_TOKEN: HeaderName = HeaderName::from_static("private-token");

/// One list of runners at GitLab.
pub(super) struct GitLab {
    service: Service,
    api: ApiUrl,
    list: List,
    details: Details,
    first: Url,
    access: Access,
    changed: Changed,
}

/// A token, and how it is sent.
#[derive(Clone)]
struct Access {
    token: Secret,
    auth: GitLabAuth,
}

impl Access {
    async fn headers(&self) -> Result<HeaderMap, PollError> {
        let token = self.token.read_token().await?;
        let token = token.expose_secret();
        let (name, value) = match self.auth {
            GitLabAuth::PrivateToken => (PRIVATE_TOKEN, header::secret(token)?),
            GitLabAuth::Bearer => (AUTHORIZATION, header::secret(&format!("Bearer {token}"))?),
        };
        let accept = (ACCEPT, HeaderValue::from_static("application/json"));
        Ok(HeaderMap::from_iter([accept, (name, value)]))
    }
}

impl GitLab {
    pub(super) fn open(
        source: &RunnerSource,
        scope: &GitLabScope,
        token: &SecretPlace,
        auth: GitLabAuth,
        details: u32,
        credentials: Option<&Path>,
    ) -> Result<Self, OpenError> {
        let mut first = list_of(&source.api, scope);
        first.set_query(Some("per_page=100"));
        let changed = Changed::default();
        Ok(Self {
            service: Service::new(source, terms(scope))?,
            api: source.api.clone(),
            list: List::default(),
            details: Details::new(source.api.clone(), details, changed.clone()),
            first,
            access: Access { token: Secret::at(token, credentials), auth },
            changed,
        })
    }

    pub(super) fn management(&self) -> Management {
        Management::new(self.service.beside(), self.api.clone(), self.access.clone(), self.changed.clone())
    }

    /// Reads the whole list, and what it does not tell of a few of the runners.
    pub(super) async fn poll(&mut self) -> Poll {
        let at = Timestamp::now();
        self.service.begin();
        let result = self.read().await;
        self.service.conclude(at, result)
    }

    async fn read(&mut self) -> Result<Vec<Seen>, PollError> {
        let headers = self.access.headers().await?;
        let parse = |answer: &Answer| {
            let runners: Vec<shape::Listed> = answer.json()?;
            let total = answer.headers.get("x-total").and_then(|total| total.to_str().ok()?.parse().ok());
            Ok(Page { runners: runners.into_iter().map(shape::Listed::seen).collect(), total })
        };
        let mut runners = self.list.read(&mut self.service, &self.first, &headers, parse).await?;
        self.details.complete(&mut self.service, &headers, &mut runners).await;
        Ok(runners)
    }
}

fn list_of(api: &ApiUrl, scope: &GitLabScope) -> Url {
    match scope {
        GitLabScope::Instance => api.join(&["runners", "all"]),
        GitLabScope::Owned => api.join(&["runners"]),
        GitLabScope::Group(group) => api.join(&["groups", group, "runners"]),
        GitLabScope::Project(project) => api.join(&["projects", project, "runners"]),
    }
}

fn terms(scope: &GitLabScope) -> Terms {
    match scope {
        GitLabScope::Instance => Terms {
            place: "list of all runners".to_owned(),
            needs: "the scope `read_api`, and to be of an administrator or auditor of a GitLab of your own",
        },
        GitLabScope::Owned => Terms { place: "list of runners".to_owned(), needs: "the scope `read_api`" },
        GitLabScope::Group(group) => Terms {
            place: format!("group `{group}`"),
            needs: "the scope `read_api`, and to be of an owner of the group",
        },
        GitLabScope::Project(project) => Terms {
            place: format!("project `{project}`"),
            needs: "the scope `read_api`, and to be of a maintainer of the project",
        },
    }
}

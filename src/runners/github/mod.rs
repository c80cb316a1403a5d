//! Self-hosted runners of GitHub: of a repository, an organisation or an enterprise.
//!
//! Source: GitHub, "REST API endpoints for self-hosted runners", version 2022-11-28. Deliberately absent: jobs of a
//! runner, which GitHub tells only by webhooks.

mod app;
mod shape;

use std::path::Path;

use jiff::Timestamp;
use reqwest::Url;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use self::app::App;
use crate::config::{GitHubAccess, GitHubScope, RunnerSource};
use crate::runners::list::{List, Page};
use crate::runners::poll::{Poll, PollError};
use crate::runners::secret::Secret;
use crate::runners::seen::{Kind, Seen};
use crate::runners::service::{Service, Terms};
use crate::runners::{OpenError, header};

const API_VERSION: HeaderName = HeaderName::from_static("x-github-api-version");

/// One list of runners at GitHub.
pub(super) struct GitHub {
    service: Service,
    list: List,
    first: Url,
    kind: Kind,
    access: Access,
    version: HeaderValue,
}

enum Access {
    Token(Secret),
    App(App),
}

impl GitHub {
    pub(super) fn open(
        source: &RunnerSource,
        scope: &GitHubScope,
        access: &GitHubAccess,
        api_version: &str,
        credentials: Option<&Path>,
    ) -> Result<Self, OpenError> {
        let (path, kind, terms) = match scope {
            GitHubScope::Repository { owner, name } => (
                vec!["repos", owner, name],
                Kind::Repository,
                Terms {
                    place: format!("repository `{owner}/{name}`"),
                    needs: "`repo`, or if it is fine-grained or an app's, \"Administration\" of the repository (read)",
                },
            ),
            GitHubScope::Organization(name) => (
                vec!["orgs", name],
                Kind::Organization,
                Terms {
                    place: format!("organization `{name}`"),
                    needs: "`admin:org`, or if it is fine-grained or an app's, \"Self-hosted runners\" (read)",
                },
            ),
            GitHubScope::Enterprise(name) => (
                vec!["enterprises", name],
                Kind::Enterprise,
                Terms { place: format!("enterprise `{name}`"), needs: "`manage_runners:enterprise`" },
            ),
        };
        let mut first = source.api.join(&[&path[..], &["actions", "runners"]].concat());
        first.set_query(Some("per_page=100"));
        let access = match access {
            GitHubAccess::Token(place) => Access::Token(Secret::at(place, credentials)),
            GitHubAccess::App { app, installation, key } => {
                Access::App(App::new(&source.api, app, *installation, Secret::at(key, credentials)))
            }
        };
        Ok(Self {
            service: Service::new(source, terms)?,
            list: List::default(),
            first,
            kind,
            access,
            // The settings hold only dates.
            version: HeaderValue::from_str(api_version).unwrap_or(HeaderValue::from_static("2022-11-28")),
        })
    }

    /// Reads the whole list.
    pub(super) async fn poll(&mut self) -> Poll {
        let at = Timestamp::now();
        self.service.begin();
        let result = self.read().await;
        self.service.conclude(at, result)
    }

    async fn read(&mut self) -> Result<Vec<Seen>, PollError> {
        let token = match &mut self.access {
            Access::Token(secret) => secret.read_token().await?,
            Access::App(app) => app.token(&mut self.service, &self.version).await?,
        };
        let headers = headers(&token, &self.version)?;
        let kind = self.kind;
        let result = self
            .list
            .read(&mut self.service, &self.first, &headers, |answer| {
                let list: shape::Runners = answer.json()?;
                let runners = list.runners.into_iter().map(|runner| runner.seen(kind)).collect();
                Ok(Page { runners, total: Some(list.total_count) })
            })
            .await;
        if let (Access::App(app), Err(PollError::Unauthorized)) = (&mut self.access, &result) {
            app.forget();
        }
        result
    }
}

fn headers(token: &SecretString, version: &HeaderValue) -> Result<HeaderMap, PollError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
    headers.insert(API_VERSION, version.clone());
    headers.insert(AUTHORIZATION, header::secret(&format!("Bearer {}", token.expose_secret()))?);
    Ok(headers)
}

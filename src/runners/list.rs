//! A list that comes in pages, read as a whole or not at all.

use std::collections::{HashMap, HashSet};

use reqwest::header::{ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH};
use reqwest::{StatusCode, Url};

use crate::runners::poll::PollError;
use crate::runners::seen::{ExternalId, Seen};
use crate::runners::service::{Answer, Service};

/// The most pages of a list: 20,000 runners. GitHub allows 10,000 in a group.
const PAGES_MAX: usize = 200;

/// How often a list is read that changes meanwhile. A runner that goes moves all behind it, and one of them from a page
/// that was not read to one that was.
const ATTEMPTS: u32 = 3;

/// What one page says.
#[derive(Clone)]
pub(super) struct Page {
    pub(super) runners: Vec<Seen>,
    /// How many runners the whole list has, if the service tells.
    pub(super) total: Option<u64>,
}

/// A list, and what is known of its pages from the last time.
#[derive(Default)]
pub(super) struct List {
    /// The headers of the requests, with the token: what a service said to one it need not say to another.
    asked_with: HeaderMap,
    known: HashMap<Url, Known>,
}

/// A page that a service can confirm without sending it again (RFC 9110, section 13.1.2).
struct Known {
    tag: HeaderValue,
    page: Page,
    next: Option<Url>,
}

impl List {
    /// Reads all pages from `first` on.
    ///
    /// # Errors
    /// If any page can't be read, or the list did not hold still.
    pub(super) async fn read(
        &mut self,
        service: &mut Service,
        first: &Url,
        headers: &HeaderMap,
        parse: impl Fn(&Answer) -> Result<Page, PollError>,
    ) -> Result<Vec<Seen>, PollError> {
        if self.asked_with != *headers {
            self.known.clear();
            self.asked_with = headers.clone();
        }
        for _ in 1..ATTEMPTS {
            match self.read_once(service, first, &parse).await {
                Err(PollError::Shifted(_)) => {}
                result => return result,
            }
        }
        self.read_once(service, first, &parse).await
    }

    async fn read_once(
        &mut self,
        service: &mut Service,
        first: &Url,
        parse: &impl Fn(&Answer) -> Result<Page, PollError>,
    ) -> Result<Vec<Seen>, PollError> {
        let mut runners: Vec<Seen> = Vec::new();
        let mut total = None;
        let mut read = HashSet::new();
        let mut next = Some(first.clone());
        while let Some(url) = next {
            if read.len() == PAGES_MAX {
                return Err(PollError::TooLarge(format!("more than {PAGES_MAX} pages")));
            }
            if !read.insert(url.clone()) {
                return Err(PollError::NotUnderstood("its pages go in a circle".to_owned()));
            }
            let (page, after) = self.page(service, url, parse).await?;
            if read.len() > 1 && page.total != total {
                return Err(shifted(total, page.total));
            }
            total = page.total;
            runners.extend(page.runners);
            next = after;
        }
        self.known.retain(|url, _| read.contains(url));

        let ids: HashSet<&ExternalId> = runners.iter().map(|runner| &runner.external_id).collect();
        let listed = ids.len() as u64;
        if ids.len() < runners.len() {
            return Err(PollError::Shifted("a runner was on two pages".to_owned()));
        }
        if total.is_some_and(|total| total != listed) {
            return Err(shifted(total, Some(listed)));
        }
        Ok(runners)
    }

    async fn page(
        &mut self,
        service: &mut Service,
        url: Url,
        parse: &impl Fn(&Answer) -> Result<Page, PollError>,
    ) -> Result<(Page, Option<Url>), PollError> {
        let mut headers = self.asked_with.clone();
        if let Some(known) = self.known.get(&url) {
            headers.insert(IF_NONE_MATCH, known.tag.clone());
        }
        let answer = service.get(url.clone(), headers).await?;
        match (answer.status, self.known.get(&url)) {
            (StatusCode::OK, _) => {}
            (StatusCode::NOT_MODIFIED, Some(known)) => return Ok((known.page.clone(), known.next.clone())),
            _ => return Err(service.refusal(&answer)),
        }
        let page = parse(&answer)?;
        let next = service.next_page(&answer)?;
        self.known.remove(&url);
        if let Some(tag) = answer.headers.get(ETAG) {
            self.known.insert(url, Known { tag: tag.clone(), page: page.clone(), next: next.clone() });
        }
        Ok((page, next))
    }
}

fn shifted(before: Option<u64>, now: Option<u64>) -> PollError {
    let number = |number: Option<u64>| number.map_or_else(|| "none".to_owned(), |number| number.to_string());
    PollError::Shifted(format!("{} runners were announced, and then {}", number(before), number(now)))
}

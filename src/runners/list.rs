//! A list that comes in pages, read as a whole or not at all.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use reqwest::header::{ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH};
use reqwest::{StatusCode, Url};

use crate::runners::poll::PollError;
use crate::runners::seen::{ExternalId, Seen};
use crate::runners::service::{Answer, Service};

/// The most pages of a list: 20,000 runners. GitHub allows 10,000 in a group.
const PAGES_MAX: usize = 200;

/// How often a list is read at most that changes meanwhile.
const PASSES_MAX: u32 = 3;

/// What one page says.
#[derive(Clone)]
pub(super) struct Page {
    pub(super) runners: Vec<Seen>,
    /// How many runners the whole list has, if the service tells.
    pub(super) total: Option<u64>,
}

/// A list, and what is known of it from the last time.
///
/// A runner that goes while a list is read moves all behind it, and so one of them from a page that was not read to one
/// that was. A pass that may have missed somebody is repeated, and who is in any of the passes is there: better to be
/// told of a departure by the next poll than of one that never happened.
#[derive(Default)]
pub(super) struct List {
    /// The headers of the requests, with the token: what a service said to one it need not say to another.
    asked_with: HeaderMap,
    known: HashMap<Url, Known>,
    /// Who was there.
    last: HashSet<ExternalId>,
}

/// All pages once, from the first to the last.
struct Pass {
    runners: Vec<Seen>,
    pages: usize,
    /// How many runners were announced at the end.
    total: Option<u64>,
    /// Whether all pages told of the same list, as far as that shows.
    consistent: bool,
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
    /// If any page can't be read, or fewer runners are listed than announced.
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
        let mut seen = Union::default();
        let mut announced = None;
        for number in 1..=PASSES_MAX {
            let pass = self.pass(service, first, &parse).await?;
            announced = pass.total;
            let whole = pass.consistent && (pass.pages == 1 || number > 1 || self.lacks_nobody(&pass));
            pass.runners.into_iter().for_each(|runner| seen.add(runner));
            if whole {
                break;
            }
        }
        let listed = seen.runners.len() as u64;
        if let Some(announced) = announced.filter(|announced| *announced > listed) {
            return Err(PollError::Incomplete(format!("{announced} runners were announced, and {listed} listed")));
        }
        self.last = seen.places.into_keys().collect();
        Ok(seen.runners)
    }

    fn lacks_nobody(&self, pass: &Pass) -> bool {
        let there: HashSet<&ExternalId> = pass.runners.iter().map(|runner| &runner.external_id).collect();
        self.last.iter().all(|id| there.contains(id))
    }

    async fn pass(
        &mut self,
        service: &mut Service,
        first: &Url,
        parse: &impl Fn(&Answer) -> Result<Page, PollError>,
    ) -> Result<Pass, PollError> {
        let mut runners: Vec<Seen> = Vec::new();
        let mut totals = HashSet::new();
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
            runners.extend(page.runners);
            total = page.total;
            totals.insert(total);
            next = after;
        }
        self.known.retain(|url, _| read.contains(url));
        let ids: HashSet<&ExternalId> = runners.iter().map(|runner| &runner.external_id).collect();
        let consistent =
            totals.len() == 1 && ids.len() == runners.len() && total.is_none_or(|total| total == runners.len() as u64);
        Ok(Pass { pages: read.len(), total, consistent, runners })
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

/// Runners of several passes, each once, as the last pass told of it.
#[derive(Default)]
struct Union {
    runners: Vec<Seen>,
    places: HashMap<ExternalId, usize>,
}

impl Union {
    fn add(&mut self, runner: Seen) {
        match self.places.entry(runner.external_id.clone()) {
            Entry::Occupied(place) => {
                if let Some(known) = self.runners.get_mut(*place.get()) {
                    *known = runner;
                }
            }
            Entry::Vacant(place) => {
                place.insert(self.runners.len());
                self.runners.push(runner);
            }
        }
    }
}

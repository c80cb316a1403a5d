//! Addresses that tokens are sent to.

use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

/// Where the interface of a service is: `https`, or plain `http` on this machine itself.
///
/// It has no user, no query and no fragment, and its path has no final `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiUrl(Url);

/// The rule that an address broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnApiUrl {
    /// Not the address of a web service.
    #[error("`{0}` is no address; write for example `https://gitlab.example.com/api/v4`")]
    Form(String),
    /// Not encrypted, and not on this machine.
    #[error("`{0}` would send the token in the clear; write `https://`")]
    Clear(String),
    /// A part that such an address can't have.
    #[error("the address must end with its path, without a user, `?` or `#`")]
    Extra,
}

impl ApiUrl {
    /// The address.
    #[must_use]
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// The address of something below this one; each of `parts` is one part of the path, whatever is in it.
    #[must_use]
    pub fn join(&self, parts: &[&str]) -> Url {
        let mut url = self.0.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Whether nobody but this machine is asked.
    #[must_use]
    pub fn is_local(&self) -> bool {
        is_loopback(&self.0)
    }
}

impl FromStr for ApiUrl {
    type Err = NotAnApiUrl;

    fn from_str(text: &str) -> Result<Self, NotAnApiUrl> {
        let form = || NotAnApiUrl::Form(text.to_owned());
        let mut url: Url = text.parse().map_err(|_| form())?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(NotAnApiUrl::Extra);
        }
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(&url) => {}
            "http" => return Err(NotAnApiUrl::Clear(text.to_owned())),
            _ => return Err(form()),
        }
        url.path_segments_mut().map_err(|()| form())?.pop_if_empty();
        Ok(Self(url))
    }
}

impl fmt::Display for ApiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_loses_only_its_final_slash() {
        for (text, shown) in [
            ("https://api.github.com", "https://api.github.com"),
            ("https://api.github.com/", "https://api.github.com"),
            ("https://GitLab.example.com:8443/lab/api/v4/", "https://gitlab.example.com:8443/lab/api/v4"),
            ("http://127.0.0.1:8080/api/v4", "http://127.0.0.1:8080/api/v4"),
            ("http://[::1]/api/v4", "http://[::1]/api/v4"),
            ("http://localhost/api/v4", "http://localhost/api/v4"),
        ] {
            assert_eq!(text.parse::<ApiUrl>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_token_is_never_sent_in_the_clear_over_a_network() {
        for text in
            ["http://api.github.com", "http://10.0.0.1/api/v4", "http://127.0.0.1.example.com", "http://0.0.0.0"]
        {
            assert_eq!(text.parse::<ApiUrl>(), Err(NotAnApiUrl::Clear(text.to_owned())));
        }
    }

    #[test]
    fn what_is_no_plain_address_is_refused() {
        for text in ["", "api.github.com", "ftp://127.0.0.1", "unix:/run/x", "https://"] {
            assert_eq!(text.parse::<ApiUrl>(), Err(NotAnApiUrl::Form(text.to_owned())), "{text}");
        }
        for text in
            ["https://me:secret@example.com", "https://me@example.com", "https://a.example?x=1", "https://a.example#x"]
        {
            let error = text.parse::<ApiUrl>().unwrap_err();
            assert_eq!(error, NotAnApiUrl::Extra);
            assert!(!error.to_string().contains("secret"));
        }
    }

    #[test]
    fn what_is_joined_can_not_leave_its_part_of_the_path() {
        let api: ApiUrl = "https://gitlab.example.com/api/v4".parse().unwrap();
        let url = api.join(&["groups", "acme/to?ols", "runners"]);
        assert_eq!(url.as_str(), "https://gitlab.example.com/api/v4/groups/acme%2Fto%3Fols/runners");
        let github: ApiUrl = "https://api.github.com".parse().unwrap();
        assert_eq!(github.join(&["orgs", "acme"]).as_str(), "https://api.github.com/orgs/acme");
    }
}

//! The `Link` header: where the next page of a list is.

use reqwest::header::{HeaderMap, LINK};

/// The target of the first link with the relation `next`, as it stands there.
///
/// Source: RFC 8288, section 3.
pub(super) fn next(headers: &HeaderMap) -> Option<&str> {
    let values = headers.get_all(LINK).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(links).find(|(_, parameters)| is_next(parameters)).map(|(target, _)| target)
}

/// The targets of a header's links, each with its parameters.
fn links(mut text: &str) -> Vec<(&str, &str)> {
    let mut links = Vec::new();
    while let Some((target, rest)) = text.split_once('<').and_then(|(_, rest)| rest.split_once('>')) {
        let end = end_of_parameters(rest);
        links.push((target, &rest[..end]));
        text = &rest[end..];
    }
    links
}

/// The place of the comma that ends the parameters; one in quotes does not.
fn end_of_parameters(text: &str) -> usize {
    let mut quoted = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

fn is_next(parameters: &str) -> bool {
    parameters.split(';').filter_map(|parameter| parameter.split_once('=')).any(|(name, value)| {
        name.trim().eq_ignore_ascii_case("rel")
            && value.trim().trim_matches('"').split_ascii_whitespace().any(|word| word.eq_ignore_ascii_case("next"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next_of(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(LINK, value.parse().unwrap());
        }
        next(&headers).map(str::to_owned)
    }

    #[test]
    fn only_the_relation_next_leads_on() {
        for (value, expected) in [
            ("<https://a/2>; rel=\"next\", <https://a/9>; rel=\"last\"", Some("https://a/2")),
            ("<https://a/9>; rel=\"last\", <https://a/2>; rel=next", Some("https://a/2")),
            ("<https://a/2?x=1,2>;title=\"a, b\";rel=\"prev next\"", Some("https://a/2?x=1,2")),
            ("<?page=2>; REL=\"NEXT\"", Some("?page=2")),
            ("<https://a/1>; rel=\"prev\"", None),
            ("<https://a/1>; rel=\"nextish\"; title=\"rel=next\"", None),
            ("https://a/2; rel=next", None),
            ("<https://a/2; rel=next", None),
            ("", None),
        ] {
            assert_eq!(next_of(&[value]).as_deref(), expected, "{value}");
        }
        assert_eq!(next_of(&["<https://a/1>; rel=first", "<https://a/2>; rel=next"]).as_deref(), Some("https://a/2"));
        assert_eq!(next_of(&[]), None);
    }
}

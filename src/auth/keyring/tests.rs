use proptest::prelude::*;

use super::*;

const NOW: &str = "2030-06-01T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// A file with one token for the text `secret`.
fn file(more: &str) -> String {
    format!("[[token]]\nname = \"ci\"\naccess = \"rw\"\nsha256 = \"{}\"\n{more}\n", TokenHash::of("secret"))
}

fn fault(text: &str) -> String {
    Keyring::parse(text).unwrap_err().to_string()
}

fn denial(more: &str) -> Denial {
    Keyring::parse(&file(more)).unwrap().authenticate("secret", now()).unwrap_err()
}

#[test]
fn a_made_token_is_its_caller() {
    let (writer, reader) = (Token::generate(Access::ReadWrite).unwrap(), Token::generate(Access::ReadOnly).unwrap());
    let keyring = Keyring::parse(&format!(
        "[[token]]\nname = \"ci\"\naccess = \"rw\"\nsha256 = \"{}\"\n\
         [[token]]\nname = \"read\"\naccess = \"ro\"\nsha256 = \"{}\"\njobs = [\"ci-test-a\", \"ci-docs-*\"]\n",
        TokenHash::of(writer.expose()),
        TokenHash::of(reader.expose()),
    ))
    .unwrap();
    let job = |name| JobName::parse(name).unwrap();

    let writer = keyring.authenticate(writer.expose(), now()).unwrap();
    assert_eq!((writer.name().as_str(), writer.access(), writer.may_write()), ("ci", Access::ReadWrite, true));
    assert!(writer.may_see(&job("anything")));

    let reader = keyring.authenticate(reader.expose(), now()).unwrap();
    assert_eq!((reader.name().as_str(), reader.may_write()), ("read", false));
    assert!(reader.may_see(&job("ci-test-a")) && reader.may_see(&job("ci-docs-b")));
    assert!(!reader.may_see(&job("ci-test-b")));
}

#[test]
fn a_token_of_another_make_is_known_by_its_hash() {
    let keyring = Keyring::parse(&file("")).unwrap();
    assert_eq!(keyring.authenticate("secret", now()).unwrap().name().as_str(), "ci");
    for other in ["Secret", "secret ", " secret", "secre", "secrets", &TokenHash::of("secret").to_string()] {
        assert_eq!(keyring.authenticate(other, now()), Err(Denial::Unknown), "{other}");
    }
}

#[test]
fn a_damaged_token_is_told_from_an_unknown_one() {
    let keyring = Keyring::parse(&file("")).unwrap();
    let token = Token::generate(Access::ReadWrite).unwrap();
    assert_eq!(keyring.authenticate(token.expose(), now()), Err(Denial::Unknown));
    let cut = &token.expose()[..40];
    for damaged in ["", "cib_", cut, &format!("{} ", token.expose())] {
        assert_eq!(keyring.authenticate(damaged, now()), Err(Denial::Malformed), "{damaged:?}");
    }
}

#[test]
fn a_token_counts_only_in_its_time() {
    let expires = "2030-06-01T12:00:00Z".parse().unwrap();
    assert_eq!(denial("expires = 2030-06-01T12:00:00Z"), Denial::Expired { at: expires });
    let from = "2030-06-01T12:00:01Z".parse().unwrap();
    assert_eq!(denial("not_before = 2030-06-01T14:00:01+02:00"), Denial::NotYetValid { from, now: now() });
    assert!(denial("not_before = \"2030-06-01T12:00:01Z\"").to_string().contains(NOW));
    for valid in ["expires = 2030-06-01T12:00:01Z", "not_before = 2030-06-01T12:00:00Z"] {
        assert!(Keyring::parse(&file(valid)).unwrap().authenticate("secret", now()).is_ok(), "{valid}");
    }
}

#[test]
fn revoked_is_revoked_whatever_the_clock_says() {
    for more in ["revoked = 2029-01-01T00:00:00Z", "revoked = 2099-01-01T00:00:00Z\nexpires = 2029-01-01T00:00:00Z"] {
        assert_eq!(denial(more), Denial::Revoked);
    }
}

#[test]
fn every_denial_has_its_own_code() {
    let at = now();
    let denials = [
        Denial::Malformed,
        Denial::Unknown,
        Denial::Expired { at },
        Denial::NotYetValid { from: at, now: at },
        Denial::Revoked,
    ];
    let codes = ["token_malformed", "token_unknown", "token_expired", "token_not_yet_valid", "token_revoked"];
    assert_eq!(denials.each_ref().map(Denial::code), codes);
}

#[test]
fn a_caller_is_confirmed_until_its_token_or_its_rights_change() {
    let caller = Keyring::parse(&file("")).unwrap().authenticate("secret", now()).unwrap();
    let confirm = |text: &str| Keyring::parse(text).unwrap().confirm(&caller, now());
    assert_eq!(confirm(&file("expires = 2031-01-01T00:00:00Z")), Ok(()));
    assert_eq!(confirm(&file("revoked = 2030-01-01T00:00:00Z")), Err(Denial::Revoked));
    assert_eq!(confirm(&file("jobs = [\"ci-test-a\"]")), Err(Denial::Unknown));
    assert_eq!(confirm(""), Err(Denial::Unknown));
}

#[test]
fn an_empty_file_is_an_empty_keyring() {
    let keyring = Keyring::parse("# nobody\n").unwrap();
    assert!(keyring.is_empty());
    assert_eq!(keyring.authenticate("secret", now()), Err(Denial::Unknown));
}

#[test]
fn a_mistake_in_the_file_is_named() {
    for (text, expected) in [
        (file("expire = 2030-01-01T00:00:00Z"), "line 5: unknown key `token.expire`; did you mean `token.expires`?"),
        ("[[tokens]]\nname = \"a\"".to_owned(), "line 1: unknown key `tokens`; did you mean `token`?"),
        ("[token]\nname = \"a\"".to_owned(), "line 1: `token` must be written as `[[token]]`, not of type table"),
        ("[[token]]\nname = \"a\"".to_owned(), "`token[0].access` is missing; add `access = \"ro\"`"),
        (
            "[[token]]\nname = \"a b\"".to_owned(),
            "line 2: `token[0].name`: a token's name is 1 to 64 characters of [A-Za-z0-9._-]",
        ),
        (
            file("access = 1").replacen("access = \"rw\"\n", "", 1),
            "line 4: `token[0].access` must be a string in quotes, not of type integer",
        ),
        (
            file("").replace("rw", "admin"),
            "line 3: `token[0].access`: access is `rw` (start, stop and read) or `ro` (read)",
        ),
        (
            file("jobs = []"),
            "line 5: `token[0].jobs`: no job at all; name at least one, or remove the key to allow all",
        ),
        (
            file("jobs = [\"a*b\"]"),
            "line 5: `token[0].jobs[0]`: the job pattern `a*b` is neither a job's name nor the beginning of one with `*` at its end",
        ),
        (
            file("expires = 2030-01-01"),
            "line 5: `token[0].expires`: `2030-01-01` is no moment; write date, time and offset: 2030-01-31T12:00:00Z",
        ),
        (file("") + &file("").replace("\"ci\"", "\"b\""), "`ci` and `b` have the same sha256; remove one of them"),
        (
            file("") + &file("").replace(&TokenHash::of("secret").to_string(), &TokenHash::of("b").to_string()),
            "two tokens are named `ci`; rename or revoke one of them",
        ),
    ] {
        assert_eq!(fault(&text), expected);
    }
}

#[test]
fn the_hash_of_nothing_is_no_token() {
    let text = file("").replace(&TokenHash::of("secret").to_string(), &TokenHash::of("").to_string());
    assert!(fault(&text).contains("empty text"));
    for text in ["", "12", &"g".repeat(64), &"é".repeat(32)] {
        assert_eq!(text.parse::<TokenHash>(), Err(NotATokenHash::Form), "{text}");
    }
}

#[test]
fn debug_shows_no_whole_hash() {
    let keyring = Keyring::parse(&file("")).unwrap();
    assert!(!format!("{keyring:?}").contains(&TokenHash::of("secret").to_string()));
}

proptest! {
    #[test]
    fn a_hash_is_its_own_text(secret in "\\PC{1,40}") {
        let hash = TokenHash::of(&secret);
        prop_assert_eq!(hash.to_string().parse(), Ok(hash));
        prop_assert_eq!(hash.to_string().to_uppercase().parse(), Ok(hash));
    }

    #[test]
    fn only_a_registered_text_gets_in(secrets in prop::collection::hash_set("[a-z]{1,4}", 1..12), guess in "[a-z]{1,4}") {
        let entry = |secret| format!("[[token]]\nname = \"{secret}\"\naccess = \"ro\"\nsha256 = \"{}\"\n", TokenHash::of(secret));
        let file = secrets.iter().map(|secret| entry(secret)).collect::<Vec<_>>().concat();
        let keyring = Keyring::parse(&file).unwrap();
        let answer = keyring.authenticate(&guess, now()).map(|caller| caller.name().to_string());
        let expected = if secrets.contains(&guess) { Ok(guess) } else { Err(Denial::Unknown) };
        prop_assert_eq!(answer, expected);
    }
}

#[test]
fn a_scope_is_one_that_is_known_and_fits_the_token() {
    let has_scope = |more: &str, scope| Keyring::parse(&file(more)).unwrap().entries()[0].caller().has(scope);
    let has = |more: &str| has_scope(more, Scope::Audit);
    for none in ["", "scopes = []"] {
        assert!(!has(none), "{none}");
    }
    assert!(has("scopes = [\"audit\"]") && has("scopes = [\"runners\", \"audit\"]"));
    // Runners belong to no job.
    let narrow = "scopes = [\"runners\"]\njobs = [\"ci-test-*\"]";
    assert!(has_scope(narrow, Scope::Runners) && !has(narrow));
    for (wrong, said) in [
        ("scopes = [\"admin\"]", "a scope is `audit`"),
        ("scopes = [\"Audit\"]", "a scope is `audit`"),
        ("scopes = \"audit\"", "must be a list in brackets"),
        ("scopes = [\"audit\", \"audit\"]", "`audit` is there twice"),
        ("scope = [\"audit\"]", "did you mean `token.scopes`?"),
        ("scopes = [\"audit\"]\njobs = [\"ci-test-*\"]", "shows all jobs"),
    ] {
        assert!(fault(&file(wrong)).contains(said), "{wrong}: {}", fault(&file(wrong)));
    }
    for scope in ["audit", "runners"] {
        let reader = file(&format!("scopes = [\"{scope}\"]")).replace("\"rw\"", "\"ro\"");
        assert!(fault(&reader).contains("takes `access = \"rw\"`"), "{}", fault(&reader));
    }
}

#[test]
fn each_difference_between_two_files_is_one_change_without_a_hash() {
    let entry = |name: &str, text: &str, more: &str| {
        format!("[[token]]\nname = \"{name}\"\naccess = \"rw\"\nsha256 = \"{}\"\n{more}\n", TokenHash::of(text))
    };
    let keyring = |entries: &[String]| Keyring::parse(&entries.concat()).unwrap();
    let before = keyring(&[
        entry("same", "1", ""),
        entry("revoked", "2", ""),
        entry("narrow", "3", "jobs = [\"ci-a\"]"),
        entry("old", "4", ""),
        entry("replaced", "5", ""),
    ]);
    let after = keyring(&[
        entry("replaced", "6", "expires = 2030-01-31T12:00:00Z"),
        entry("same", "1", ""),
        entry("revoked", "2", "revoked = 2026-01-01T00:00:00Z"),
        entry("narrow", "3", ""),
        entry("new", "4", ""),
    ]);
    let told = |before: &Keyring, after: &Keyring| -> Vec<String> {
        let changes = before.changes(after);
        changes.iter().map(|all| format!("{} {}: {}", all.what.as_str(), all.name(), all.rights())).collect()
    };
    assert_eq!(told(&before, &before), [""; 0]);
    let expected = [
        "added replaced: rw, until 2030-01-31T12:00:00Z",
        "revoked revoked: rw, revoked 2026-01-01T00:00:00Z",
        "changed narrow: rw",
        "changed new: rw",
        "removed replaced: rw",
    ];
    assert_eq!(told(&before, &after), expected);
    assert_eq!(told(&after, &before)[1], "changed narrow: rw, jobs ci-a");
    // What was withdrawn and counts again is not overlooked.
    assert_eq!(told(&after, &before)[0], "changed revoked: rw");
}

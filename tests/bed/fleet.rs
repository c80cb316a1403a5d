//! The fleet in the installed service: its sandbox lets it reach GitHub and the targets of alerts, and systemd hands it the
//! token.

use reqwest::Method;
use serde_json::{Value, json};

use crate::bridge::{Answer, Bridge};

const RUNNERS: &str = r#"{"total_count": 2, "runners": [
{"id": 1, "name": "build-1", "os": "linux", "status": "online", "busy": false, "labels": [{"name": "self-hosted"}]},
{"id": 2, "name": "build-2", "os": "linux", "status": "online", "busy": false, "labels": [{"name": "self-hosted"}]}]}
"#;

const SETTINGS: &str = r#"
[[runners.github]]
name = "acme"
api = "http://127.0.0.1:9001"
organization = "acme"
credential = "github-acme"
grace = 0

[[alerts]]
name = "ops"
url_file = "/etc/ci-bridge/secrets/ops-url"
allow_private = true
"#;

/// Whether the runners have these states, by their names.
fn are(answer: &Answer, states: [&str; 2]) -> bool {
    let runners = answer.ok()["runners"].as_array().unwrap().clone();
    let states = states.map(|state| json!(state));
    runners.iter().map(|runner| &runner["state"]).eq(&states)
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn the_sandboxed_service_gets_its_token_from_systemd_and_reaches_github_and_the_targets() {
    let bridge = Bridge::up();
    let bed = &bridge.bed;
    bed.sh("mkdir -p /var/lib/fake-github /etc/ci-bridge/secrets /etc/systemd/system/ci-bridge.service.d");
    bed.write("/var/lib/fake-github/runners.json", RUNNERS);
    bed.write("/etc/ci-bridge/secrets/github-acme", "ghp-demo\n");
    bed.write("/etc/ci-bridge/secrets/ops-url", "http://127.0.0.1:9002/hook\n");
    bed.write(
        "/etc/systemd/system/ci-bridge.service.d/github.conf",
        "[Service]\nLoadCredential=github-acme:/etc/ci-bridge/secrets/github-acme\n",
    );
    // Only systemd can read the token.
    bed.sh("chmod 600 /etc/ci-bridge/secrets/github-acme && systemctl start fake-github.socket fake-hook.socket");
    let settings = bed.ok(["cat", "/etc/ci-bridge/config.toml"]);
    bed.write("/etc/ci-bridge/config.toml", &format!("{settings}{SETTINGS}"));
    bed.sh("systemctl daemon-reload && systemctl restart ci-bridge");
    bridge.until(Method::GET, "/api/runners", |answer| are(answer, ["online", "online"])).await;

    bed.sh("sed -i '/build-2/s/online/offline/' /var/lib/fake-github/runners.json && systemctl reload ci-bridge");
    bridge.until(Method::GET, "/api/runners", |answer| are(answer, ["online", "offline"])).await;
    bridge.until(Method::GET, "/api/alerts", |answer| answer.ok()["alerts"][0]["state"] == "done").await;
    let told: Value =
        serde_json::from_str(&bed.sh("journalctl --sync && journalctl --no-pager -o cat -t fake-hook")).unwrap();
    let said = (&told["type"], &told["runner"]["name"], &told["previous"]["state"]);
    assert_eq!(said, (&json!("runner.offline"), &json!("build-2"), &json!("online")));
}

/// A GitHub behind TLS, with a certificate of an authority of its own.
const TLS: &str = r#"
mkdir -p /var/lib/fake-tls/orgs/acme/actions /etc/ci-bridge/secrets && cd /var/lib/fake-tls
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=an authority' -keyout ca.key -out ca.crt 2>/dev/null
openssl req -newkey rsa:2048 -nodes -subj '/CN=localhost' -keyout server.key -out server.csr 2>/dev/null
printf 'subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n' >extensions
openssl x509 -req -days 2 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile extensions -out server.crt 2>/dev/null
body='{"total_count": 1, "runners": [{"id": 1, "name": "build-1", "os": "linux", "status": "online", "busy": false, "labels": []}]}'
printf 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' \
    ${#body} "$body" >'orgs/acme/actions/runners?per_page=100'
echo ghp-demo >/etc/ci-bridge/secrets/github-acme && chmod 644 /etc/ci-bridge/secrets/github-acme
systemd-run --quiet --unit=fake-tls --property=WorkingDirectory=/var/lib/fake-tls \
    openssl s_server -accept 127.0.0.1:9443 -cert server.crt -key server.key -quiet -HTTP
until openssl s_client -connect 127.0.0.1:9443 </dev/null >/dev/null 2>&1; do :; done
"#;

const TLS_SETTINGS: &str = r#"
[[runners.github]]
name = "acme"
api = "https://localhost:9443"
organization = "acme"
token_file = "/etc/ci-bridge/secrets/github-acme"
"#;

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn the_sandboxed_service_reaches_a_github_behind_tls_if_the_machine_trusts_its_authority() {
    let bridge = Bridge::up();
    let bed = &bridge.bed;
    bed.sh(TLS);
    let settings = bed.ok(["cat", "/etc/ci-bridge/config.toml"]);
    bed.write("/etc/ci-bridge/config.toml", &format!("{settings}{TLS_SETTINGS}"));
    bed.sh("systemctl restart ci-bridge");
    let is_unreachable = |answer: &Answer| answer.ok()["sources"][0]["error"] == "unreachable";
    bridge.until(Method::GET, "/api/sources", is_unreachable).await;
    bed.await_log("ci-bridge", "invalid peer certificate: UnknownIssuer");

    bed.sh("cat /var/lib/fake-tls/ca.crt >>/etc/ssl/certs/ca-certificates.crt && systemctl restart ci-bridge");
    let is_there = |answer: &Answer| answer.ok()["runners"][0]["name"] == "build-1";
    bridge.until(Method::GET, "/api/runners", is_there).await;
}

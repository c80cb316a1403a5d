use ci_bridge::alerts::{Alerts, Teller};
use ci_bridge::config::Settings;
use ci_bridge::outages;
use ci_bridge::store::DeliveryFilter;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::Home;

#[tokio::test]
async fn trouble_with_the_archive_is_told_when_it_comes_and_when_it_goes_to_those_who_asked() {
    let home = Home::new().await;
    let text = "jobs.prefixes = [\"ci-test-\"]\n\
                [[alerts]]\nname = \"ops\"\nurl = \"https://hooks.example.com/a\"\nevents = [\"storage.failed\", \"storage.recovered\"]\n\
                [[alerts]]\nname = \"chat\"\nurl = \"https://hooks.example.com/b\"\n";
    let teller = Teller::new(Alerts::load(&Settings::parse(text).unwrap().alerts).unwrap());
    let (troubles, watched) = watch::channel(None);
    let watching = tokio::spawn(outages::watch_archive(watched, home.store.clone(), teller));
    let told = async |count: usize| {
        loop {
            let deliveries = home.store.deliveries(DeliveryFilter::All, None, 10).await.unwrap();
            if deliveries.len() >= count {
                let body = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap();
                let said =
                    deliveries.iter().rev().map(|record| (record.delivery.alert.clone(), body(&record.delivery.body)));
                return said.collect::<Vec<_>>();
            }
        }
    };
    for (count, trouble) in [(1, Some("no room")), (2, None), (3, Some("no room")), (4, None)] {
        troubles.send_replace(trouble.map(str::to_owned));
        let told = told(count).await;
        assert_eq!((told.len(), told[count - 1].0.as_str()), (count, "ops"));
        let body = &told[count - 1].1;
        let (kind, storage) = match trouble {
            Some(error) => ("storage.failed", json!({ "part": "archive", "error": error })),
            None => ("storage.recovered", json!({ "part": "archive" })),
        };
        assert_eq!((&body["type"], &body["storage"]), (&json!(kind), &storage));
    }
    drop(troubles);
    watching.await.unwrap();
}

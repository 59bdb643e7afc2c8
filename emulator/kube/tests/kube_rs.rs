//! The API as the Rust client `kube` meets it: what the kubelet and the scenario runner use.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event, InitialListStrategy};
use serde_json::json;

async fn serve(dir: &tempfile::TempDir, address: &str) -> emulator_kube::Running {
    emulator_kube::start(emulator_kube::Config {
        listener: std::net::TcpListener::bind(address).unwrap(),
        places: emulator_common::places::Places::new(dir.path().join("data")),
        drivers: BTreeMap::new(),
        controllers_off: BTreeSet::new(),
        journal: false,
    })
    .await
    .unwrap()
}

async fn client(dir: &tempfile::TempDir) -> (emulator_kube::Running, kube::Client) {
    let running = serve(dir, "127.0.0.1:0").await;
    let kubeconfig = Kubeconfig::read_from(&running.kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    (running, kube::Client::try_from(config).unwrap())
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"a": "1"}})).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_written_listed_and_watched() {
    let dir = tempfile::tempdir().unwrap();
    let (running, client) = client(&dir).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    maps.create(&PostParams::default(), &map("m1")).await.unwrap();
    let list = maps.list(&ListParams::default()).await.unwrap();
    assert_eq!(list.items.len(), 1);
    let version = list.metadata.resource_version.unwrap();
    let mut changes = maps.watch(&WatchParams::default(), &version).await.unwrap().boxed();

    maps.patch("m1", &PatchParams::default(), &Patch::Merge(json!({"data": {"a": "2"}}))).await.unwrap();
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"b": "3"}});
    maps.patch("m1", &PatchParams::apply("test"), &Patch::Apply(applied)).await.unwrap();
    let mut stale = map("m1");
    stale.metadata.resource_version = Some(version);
    let error = maps.replace("m1", &PostParams::default(), &stale).await.unwrap_err();
    assert!(matches!(&error, kube::Error::Api(status) if status.code == 409), "{error:?}");
    maps.delete("m1", &DeleteParams::default()).await.unwrap();

    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(match changes.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(_) => "added",
            WatchEvent::Modified(_) => "modified",
            WatchEvent::Deleted(_) => "deleted",
            WatchEvent::Bookmark(_) => "bookmark",
            WatchEvent::Error(_) => "error",
        });
    }
    assert_eq!(seen, ["modified", "modified", "deleted"]);
    running.stop().await;
}

/// Both ways to begin: list and watch, and a watch that sends what exists first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_follow_from_what_exists() {
    let dir = tempfile::tempdir().unwrap();
    let (running, client) = client(&dir).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    maps.create(&PostParams::default(), &map("m1")).await.unwrap();
    for (strategy, name) in [(InitialListStrategy::ListWatch, "m2"), (InitialListStrategy::StreamingList, "m3")] {
        let config = watcher::Config { initial_list_strategy: strategy, ..watcher::Config::default() };
        let mut events = watcher::watcher(maps.clone(), config).boxed();
        let mut initial = 0;
        loop {
            match events.try_next().await.unwrap().unwrap() {
                Event::InitApply(_) => initial += 1,
                Event::InitDone => break,
                Event::Init => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(initial, maps.list(&ListParams::default()).await.unwrap().items.len());
        maps.create(&PostParams::default(), &map(name)).await.unwrap();
        let event = events.try_next().await.unwrap().unwrap();
        assert!(matches!(&event, Event::Apply(found) if found.metadata.name.as_deref() == Some(name)), "{event:?}");
    }
    running.stop().await;
}

/// The log of changes starts anew with the process: who watched an earlier version is told so in the stream, and lists again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_list_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (running, client) = client(&dir).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    maps.create(&PostParams::default(), &map("m1")).await.unwrap();
    let mut events = watcher::watcher(maps.clone(), watcher::Config::default()).boxed();
    while !matches!(events.try_next().await.unwrap().unwrap(), Event::InitDone) {}
    let version = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    // What this watcher does not see, so that its version is an earlier one.
    let elsewhere: Api<ConfigMap> = Api::namespaced(client, "kube-system");
    elsewhere.create(&PostParams::default(), &map("m2")).await.unwrap();
    let address = running.addr.to_string();
    running.stop().await;

    let running = serve(&dir, &address).await;
    let mut told = maps.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    let event = told.try_next().await.unwrap();
    assert!(matches!(&event, Some(WatchEvent::Error(status)) if status.code == 410 && status.reason == "Expired"), "{event:?}");
    assert!(told.try_next().await.unwrap().is_none(), "the stream ends");
    maps.delete("m1", &DeleteParams::default()).await.unwrap();
    let mut listed = Vec::new();
    let again = async {
        loop {
            match events.next().await.unwrap() {
                Ok(Event::InitApply(found)) => listed.push(found),
                Ok(Event::InitDone) => break,
                // Errors while nobody listened, and the one that says to list again.
                _ => {}
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), again).await.expect("the watcher lists again");
    assert!(listed.iter().all(|map| map.metadata.name.as_deref() != Some("m1")), "{listed:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_of_a_list_show_one_state() {
    let dir = tempfile::tempdir().unwrap();
    let (running, client) = client(&dir).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    for name in ["a", "b", "c"] {
        maps.create(&PostParams::default(), &map(name)).await.unwrap();
    }
    let names = |list: &kube::core::ObjectList<ConfigMap>| -> Vec<String> {
        list.items.iter().map(|map| map.metadata.name.clone().unwrap_or_default()).collect()
    };
    let first = maps.list(&ListParams::default().limit(1)).await.unwrap();
    assert_eq!((names(&first), first.metadata.remaining_item_count), (vec!["a".to_owned()], Some(2)));
    let version = first.metadata.resource_version.clone();
    maps.delete("b", &DeleteParams::default()).await.unwrap();
    maps.create(&PostParams::default(), &map("bb")).await.unwrap();
    let next = ListParams::default().limit(5).continue_token(&first.metadata.continue_.unwrap());
    let rest = maps.list(&next).await.unwrap();
    assert_eq!((names(&rest), rest.metadata.resource_version), (vec!["b".to_owned(), "c".to_owned()], version.clone()));
    // The same state by its version; and what is there now.
    let exact = ListParams::default().at(&version.unwrap()).matching(kube::api::VersionMatch::Exact);
    assert_eq!(names(&maps.list(&exact).await.unwrap()), ["a", "b", "c"]);
    assert_eq!(names(&maps.list(&ListParams::default()).await.unwrap()), ["a", "bb", "c"]);
    // A version that the log of this run does not reach back to.
    let gone = ListParams::default().at("1").matching(kube::api::VersionMatch::Exact);
    running.stop().await;
    let (running, client) = self::client(&dir).await;
    let error = Api::<ConfigMap>::default_namespaced(client).list(&gone).await.unwrap_err();
    assert!(matches!(&error, kube::Error::Api(status) if status.code == 410 && status.reason == "Expired"), "{error:?}");
    running.stop().await;
}

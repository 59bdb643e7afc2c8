use std::sync::atomic::AtomicUsize;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use emulator_common::store::{Batch, Memory, Record, StoreError};
use model_aws::Profile;
use model_aws::efs::{Command, LifeCycle, NewAccessPoint, NewFileSystem, Reply};
use model_aws::world::World;

use super::*;

/// A store whose commits wait at a gate, fail as often as told, and are counted.
#[derive(Default)]
struct Gated {
    inner: Memory,
    closed: Mutex<bool>,
    opened: Condvar,
    failures: AtomicUsize,
    commits: AtomicUsize,
}

impl Gated {
    fn close(&self) {
        *self.closed.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.closed.lock().unwrap() = false;
        self.opened.notify_all();
    }
}

impl Store for Gated {
    fn load(&self, table: &str) -> Result<Vec<Record>, StoreError> {
        self.inner.load(table)
    }

    fn commit(&self, batch: &mut Batch) -> Result<(), StoreError> {
        let closed = self.opened.wait_while(self.closed.lock().unwrap(), |closed| *closed).unwrap();
        drop(closed);
        self.commits.fetch_add(1, Ordering::SeqCst);
        let fails = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if fails { Err(StoreError::Format { found: "a disk that fails".into(), expected: 1 }) } else { self.inner.commit(batch) }
    }
}

/// Makes trees at once, or when the gate opens.
struct Trees(Option<Arc<tokio::sync::Semaphore>>);

impl Outside for Trees {
    fn perform(&self, effect: Effect, ended: Ended) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let gate = self.0.clone();
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            if let Effect::Efs(model_aws::efs::Effect::Work(work)) = effect {
                ended.say(Input::Efs(model_aws::efs::Input::Done(work, Ok(0))));
            }
        })
    }
}

fn fresh() -> Aws {
    Aws::new(&World::default(), Profile::Instant)
}

fn engine(store: &Arc<Gated>) -> Engine {
    let engine = Engine::start(store.clone(), fresh(), None).unwrap();
    engine.connect(Arc::new(Trees(None)));
    engine
}

fn create(token: &str) -> Input {
    Input::Efs(model_aws::efs::Input::Command(Command::CreateFileSystem(NewFileSystem {
        creation_token: token.into(),
        ..Default::default()
    })))
}

async fn created(engine: &Engine, token: &str) -> String {
    match engine.command(create(token)).await.unwrap().remove(0) {
        Effect::Efs(model_aws::efs::Effect::Reply(Reply::FileSystem(row, _))) => row.id,
        other => panic!("{other:?}"),
    }
}

async fn until_available(engine: &Engine, id: &str) {
    while engine.read(|aws| aws.efs.file_system(id).unwrap().shown()).await != LifeCycle::Available {
        tokio::task::yield_now().await;
    }
}

/// Polls once: whether it is finished.
async fn ready<F: Future + Unpin>(future: &mut F) -> bool {
    tokio::time::timeout(Duration::from_millis(20), future).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaves_before_it_is_saved_and_waiting_writers_share_a_commit() {
    let store = Arc::new(Gated::default());
    let engine = engine(&store);
    store.close();
    let writers: Vec<_> = (0..50)
        .map(|n| {
            let engine = engine.clone();
            tokio::spawn(async move { created(&engine, &n.to_string()).await })
        })
        .collect();
    // The first turn holds what had arrived; it is applied, so a reader sees it and must wait.
    while engine.shared.state.read().unwrap().sequence == 0 {
        tokio::task::yield_now().await;
    }
    let mut read = Box::pin(engine.read(|aws| aws.efs.counts().0));
    assert!(!ready(&mut read).await, "a read told of what is not saved");
    assert!(writers.iter().all(|writer| !writer.is_finished()), "a reply left before the save");
    assert_eq!(engine.shared.state.read().unwrap().aws.efs.counts().2, 0, "the state can be read while it is saved");
    // The writers that are still to come share the next turns.
    store.open();
    let mut ids = std::collections::BTreeSet::new();
    for writer in writers {
        ids.insert(writer.await.unwrap());
    }
    assert_eq!(ids.len(), 50);
    assert!(read.await >= 1);
    for id in &ids {
        until_available(&engine, id).await;
    }
    let commits = store.commits.load(Ordering::SeqCst);
    assert!(commits < 100, "{commits} commits for 50 creations and 50 completions");
}

#[tokio::test]
async fn a_failed_commit_acknowledges_nothing_and_is_tried_again() {
    let store = Arc::new(Gated::default());
    let engine = engine(&store);
    store.failures.store(1, Ordering::SeqCst);
    let writer = engine.clone();
    let writing = tokio::spawn(async move { created(&writer, "a").await });
    let fault = engine.faulted().await;
    assert!(fault.contains("a disk that fails"), "{fault}");
    assert!(!writing.is_finished());
    assert_eq!(store.load("efs/file-systems").unwrap().len(), 0);
    let id = writing.await.unwrap();
    until_available(&engine, &id).await;
    assert_eq!(engine.fault(), None);
    assert_eq!(store.load("efs/file-systems").unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_crash() {
    let store = Arc::new(Gated::default());
    let engine = engine(&store);
    let id = created(&engine, "a").await;
    until_available(&engine, &id).await;
    let point = NewAccessPoint { client_token: "t".into(), file_system_id: id.clone(), ..Default::default() };
    engine.command(Input::Efs(model_aws::efs::Input::Command(Command::CreateAccessPoint(point)))).await.unwrap();
    // From here on nothing more is saved: what the process still does is lost with it.
    let records: Vec<_> = Aws::tables()
        .flat_map(|table| store.load(table).unwrap().into_iter().map(move |(key, value)| (table, String::from_utf8(key).unwrap(), value)))
        .collect();
    let records = records.iter().map(|(table, key, value)| (*table, key.as_str(), value.as_slice()));
    let aws = Aws::load(&World::default(), Profile::Instant, records).unwrap();
    assert_eq!(aws.efs.counts(), (1, 0, 1));
    let again = Engine::start(store.clone(), aws, None).unwrap();
    again.connect(Arc::new(Trees(None)));
    again.tell(Input::Efs(model_aws::efs::Input::Booted { trees: [id.clone()].into() }));
    until_available(&again, &id).await;
    assert!(again.command(create("a")).await.is_err(), "the creation token is remembered");
}

#[tokio::test]
async fn a_reset_waits_for_effects_and_leaves_nothing() {
    let store = Arc::new(Gated::default());
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let engine = Engine::start(store.clone(), fresh(), None).unwrap();
    engine.connect(Arc::new(Trees(Some(gate.clone()))));
    let old = created(&engine, "a").await;
    let resetter = engine.clone();
    let mut events = engine.events();
    let cleaned = Arc::new(AtomicUsize::new(0));
    let cleanup = cleaned.clone();
    let clean = move || {
        cleanup.fetch_add(1, Ordering::SeqCst);
    };
    let mut resetting = Box::pin(resetter.reset(fresh(), clean, Vec::new()));
    assert!(!ready(&mut resetting).await);
    let mut late = Box::pin(created(&engine, "a"));
    assert!(!ready(&mut late).await && cleaned.load(Ordering::SeqCst) == 0, "the reset did not wait");
    gate.add_permits(10);
    resetting.await;
    assert_eq!(cleaned.load(Ordering::SeqCst), 1);
    // The command that came meanwhile is carried out in the new state.
    let new = late.await;
    assert_eq!(new, old, "ids begin anew");
    until_available(&engine, &new).await;
    assert_eq!(store.load("efs/file-systems").unwrap().len(), 1);
    loop {
        if events.recv().await.unwrap().contains("\"kind\":\"reset\"") {
            break;
        }
    }
}

#[tokio::test]
async fn events_tell_states_after_they_are_saved() {
    let store = Arc::new(Gated::default());
    let engine = engine(&store);
    let mut events = engine.events();
    let id = created(&engine, "a").await;
    let mut states = Vec::new();
    while states.last().map(String::as_str) != Some("available") {
        let event: serde_json::Value = serde_json::from_str(&events.recv().await.unwrap()).unwrap();
        assert_eq!((event["kind"].as_str(), event["id"].as_str()), (Some("fileSystem"), Some(id.as_str())));
        assert_eq!(event["record"]["creationToken"], "a");
        states.push(event["state"].as_str().unwrap().to_owned());
    }
    assert_eq!(states[0], "creating");
}

#[tokio::test]
async fn a_stopped_engine_says_so_and_answers_no_command() {
    let store = Arc::new(Gated::default());
    let engine = engine(&store);
    created(&engine, "a").await;
    engine.stop().await;
    assert_eq!(engine.fault().as_deref(), Some(STOPPED));
    let mut command = Box::pin(engine.command(create("b")));
    assert!(!ready(&mut command).await);
    assert_eq!(engine.read(|aws| aws.efs.counts().0).await, 1, "what is saved can still be read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_command_is_answered_whoever_carries_it_out() {
    let engine = engine(&Arc::new(Gated::default()));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let engine = engine.clone();
            tokio::spawn(async move {
                for n in 0..100 {
                    created(&engine, &format!("{writer}-{n}")).await;
                }
            })
        })
        .collect();
    for writer in writers {
        tokio::time::timeout(Duration::from_secs(60), writer).await.expect("a command was left in the queue").unwrap();
    }
    assert_eq!(engine.read(|aws| aws.efs.counts().0).await, 8 * 100);
}

/// A journal that takes nothing for a while keeps the thread from letting go, after it has looked into the queue for the last time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_comes_while_the_thread_is_finishing_is_carried_out() {
    use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat};
    use std::io::{Read, Write};

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("aws.jsonl");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut pipe = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let begin = model_aws::Begin { world: World::default(), profile: Profile::Instant, records: Vec::new(), effects: true };
    let journal = Journal::open(dir.path(), begin).unwrap();
    fcntl_setfl(&pipe, OFlags::NONBLOCK).unwrap();
    while pipe.write(&[b' '; 4096]).is_ok() {}
    let engine = Engine::start(Arc::new(Gated::default()), fresh(), Some(journal)).unwrap();
    engine.tell(create("told"));
    let left = loop {
        // Seldom, so that it is the thread that hands over the journal's lines, when they are due.
        tokio::time::sleep(Duration::from_millis(10)).await;
        let mut command = Box::pin(engine.command(create("given")));
        if !ready(&mut command).await {
            break command;
        }
    };
    fcntl_setfl(&pipe, OFlags::empty()).unwrap();
    std::thread::spawn(move || while pipe.read(&mut [0; 4096]).is_ok() {});
    let answer = tokio::time::timeout(Duration::from_secs(10), left).await;
    assert!(answer.expect("the command was left in the queue").is_err(), "it exists by then");
}

#[tokio::test]
async fn a_command_is_carried_out_though_its_caller_goes_away() {
    let engine = engine(&Arc::new(Gated::default()));
    let mut command = Box::pin(engine.command(create("a")));
    assert!(futures::poll!(&mut command).is_pending());
    drop(command);
    assert_eq!(engine.read(|aws| aws.efs.counts().0).await, 1);
}

#[tokio::test]
async fn commands_that_are_queued_together_share_a_commit() {
    let store = Arc::new(Gated::default());
    // Without hands no effect ends, which would be a commit of its own.
    let engine = Engine::start(store.clone(), fresh(), None).unwrap();
    let tokens: Vec<_> = (0..10).map(|n| n.to_string()).collect();
    futures::future::join_all(tokens.iter().map(|token| created(&engine, token))).await;
    assert_eq!(store.commits.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_panic_ends_the_engine_and_says_so() {
    struct Broken;
    impl Store for Broken {
        fn load(&self, _: &str) -> Result<Vec<Record>, StoreError> {
            Ok(Vec::new())
        }
        fn commit(&self, _: &mut Batch) -> Result<(), StoreError> {
            panic!("a bug")
        }
    }
    let engine = Engine::start(Arc::new(Broken), fresh(), None).unwrap();
    let caller = engine.clone();
    let calling = tokio::spawn(async move { caller.command(create("a")).await });
    assert_eq!(&*engine.faulted().await, STOPPED);
    // Whoever was at work panicked: the caller, or the thread, and then the caller waits for good.
    if let Ok(called) = tokio::time::timeout(Duration::from_millis(20), calling).await {
        assert!(called.unwrap_err().is_panic());
    }
    let mut command = Box::pin(engine.command(create("b")));
    assert!(!ready(&mut command).await);
    engine.stop().await;
}

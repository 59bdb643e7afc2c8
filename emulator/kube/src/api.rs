//! The API from inside the process: one writer, group commit, watches.
//!
//! ```text
//!  write ─► channel ─► writer thread: step all that wait ─► one commit ─► replies, then watchers
//! ```
//! The writer holds the store's lock over the commit, so that nobody reads what a crash could take back.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use emulator_common::store::{Batch, Sled, Store as _, StoreError};
use futures::stream::{BoxStream, Stream, StreamExt};
use model_kube::object::{Change, Key, Kind, Object};
use model_kube::store::{BeginError, Effect, Entry, Outcome, Store};
use model_kube::write::{ApiError, Options, Write};
use tokio::sync::{mpsc, oneshot, watch};

use crate::journal::{self, Journal};

/// The table of the objects.
pub(crate) const TABLE: &str = "objects";
/// How many writes share one commit at most.
const GROUP: usize = 256;

/// A handle on the API; cloning is cheap.
#[derive(Clone)]
pub struct Api {
    store: Arc<RwLock<Store>>,
    writes: mpsc::Sender<Message>,
    version: watch::Receiver<u64>,
}

/// What a write answers.
#[derive(Debug, Clone)]
pub struct Reply {
    pub object: Object,
    pub outcome: Outcome,
    /// `Warning` headers.
    pub warnings: Vec<String>,
}

enum Message {
    Write(Box<Job>),
    /// Close the state; told when it is closed.
    Stop(oneshot::Sender<()>),
}

struct Job {
    write: Write,
    options: Options,
    reply: oneshot::Sender<Result<Reply, ApiError>>,
}

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open the Kubernetes state")]
    Store(#[from] StoreError),
    #[error(
        "the Kubernetes state is damaged, or the objects of a new cluster cannot be made; move the data directory away or run `ebbtide reset`"
    )]
    Begin(#[from] BeginError),
    #[error("cannot open the journal")]
    Journal(#[source] std::io::Error),
    #[error("cannot draw random numbers for object ids")]
    Random(#[source] std::io::Error),
    #[error("cannot start the writer thread")]
    Thread(#[source] std::io::Error),
}

impl Api {
    /// Opens the state in a directory and starts the writer.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, None)
    }

    /// The same, with a journal of all writes in another directory.
    pub fn open_with(path: &Path, journal: Option<&Path>) -> Result<Self, OpenError> {
        let disk = Sled::open(path)?;
        let seed = crate::tls::random_u64().map_err(OpenError::Random)?;
        let begin = journal::begin(&disk, seed)?;
        let mut store = begin.start()?;
        commit(&disk, &mut store)?;
        let journal = journal.map(|directory| Journal::open(directory, &begin)).transpose().map_err(OpenError::Journal)?;
        let (told, version) = watch::channel(store.version());
        let store = Arc::new(RwLock::new(store));
        let (writes, jobs) = mpsc::channel(GROUP * 4);
        let writer = Writer { disk, store: store.clone(), told, journal };
        std::thread::Builder::new().name("kube-writer".to_owned()).spawn(move || writer.run(jobs)).map_err(OpenError::Thread)?;
        Ok(Self { store, writes, version })
    }

    /// Applies a write; it is durable when this returns.
    pub async fn write(&self, write: Write) -> Result<Object, ApiError> {
        self.write_with(write, Options::default()).await.map(|reply| reply.object)
    }

    /// Applies a write as a client asked for it.
    pub async fn write_with(&self, write: Write, options: Options) -> Result<Reply, ApiError> {
        let (reply, answer) = oneshot::channel();
        let stopped = |_| ApiError::unavailable("the API server is shutting down");
        self.writes.send(Message::Write(Box::new(Job { write, options, reply }))).await.map_err(|_| stopped(()))?;
        answer.await.map_err(|_| stopped(()))?
    }

    /// Closes the state; later writes are refused. Reads go on with what there is.
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.writes.send(Message::Stop(done)).await.is_ok() {
            // An error means the writer is gone, and the state with it.
            let _ = closed.await;
        }
    }

    /// Reads the store. The closure must be quick: writers wait for it.
    pub fn read<T>(&self, read: impl FnOnce(&Store) -> T) -> T {
        read(&self.lock())
    }

    fn lock(&self) -> RwLockReadGuard<'_, Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The changes of these kinds after a version, in order. Ends with an error when some of them are no longer kept,
    /// and without one when the API stops.
    pub fn changes(&self, kinds: Vec<Kind>, since: u64) -> impl Stream<Item = Result<Entry, ApiError>> + Send + 'static {
        struct State {
            api: Api,
            kinds: Vec<Kind>,
            at: u64,
            ready: std::collections::VecDeque<Entry>,
            failed: bool,
        }
        let mut version = self.version.clone();
        version.mark_changed();
        let state = State { api: self.clone(), kinds, at: since, ready: Default::default(), failed: false };
        futures::stream::unfold((state, version), |(mut state, mut version)| async move {
            loop {
                if let Some(entry) = state.ready.pop_front() {
                    return Some((Ok(entry), (state, version)));
                }
                if state.failed {
                    return None;
                }
                version.changed().await.ok()?;
                version.borrow_and_update();
                let mut found = Vec::new();
                let result = state.api.read(|store| {
                    let wanted = |entry: &&Entry| state.kinds.is_empty() || state.kinds.contains(&entry.change.object().kind());
                    found.extend(store.since(state.at)?.filter(wanted).cloned());
                    Ok::<_, ApiError>(store.version())
                });
                match result {
                    Ok(now) => {
                        state.at = state.at.max(now);
                        state.ready.extend(found);
                    }
                    Err(error) => {
                        state.failed = true;
                        return Some((Err(error), (state, version)));
                    }
                }
            }
        })
    }
}

impl crate::controllers::Backend for Api {
    async fn write(&self, write: Write) -> Result<Object, ApiError> {
        Self::write(self, write).await
    }

    async fn get(&self, key: &Key) -> Option<Object> {
        self.read(|store| store.object(key).cloned())
    }

    async fn list_in(&self, kind: &Kind, namespace: &str) -> Vec<Object> {
        self.read(|store| store.range(kind, namespace, "").map(|(_, object)| object.clone()).collect())
    }

    async fn list(&self, kinds: &[Kind]) -> (u64, Vec<Object>) {
        self.read(|store| {
            let objects = kinds.iter().flat_map(|kind| store.all(kind)).map(|(_, object)| object.clone()).collect();
            (store.version(), objects)
        })
    }

    fn watch(&self, kinds: &[Kind], since: u64) -> BoxStream<'static, Change> {
        self.changes(kinds.to_vec(), since)
            .take_while(|entry| std::future::ready(entry.is_ok()))
            .filter_map(|entry| std::future::ready(entry.ok().map(|entry| entry.change)))
            .boxed()
    }
}

/// The time that users see.
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

fn commit(disk: &Sled, store: &mut Store) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    for (key, value) in store.take_dirty() {
        match value {
            Some(value) => batch.put(TABLE, key, value),
            None => batch.remove(TABLE, key),
        }
    }
    if batch.is_empty() { Ok(()) } else { disk.commit(&mut batch) }
}

struct Writer {
    disk: Sled,
    store: Arc<RwLock<Store>>,
    told: watch::Sender<u64>,
    journal: Option<Journal>,
}

impl Writer {
    fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        while let Some(first) = messages.blocking_recv() {
            let mut group = Vec::new();
            let mut stop = None;
            let mut next = Some(first);
            while let Some(message) = next.take() {
                match message {
                    Message::Write(job) => group.push(*job),
                    Message::Stop(done) => stop = Some(done),
                }
                if group.len() < GROUP && stop.is_none() {
                    next = messages.try_recv().ok();
                }
            }
            self.serve(group);
            if let Some(done) = stop {
                if let Some(journal) = &mut self.journal {
                    journal.end(&self.disk);
                }
                drop((self, messages));
                // Nobody may wait any more.
                let _ = done.send(());
                return;
            }
        }
    }

    fn serve(&mut self, group: Vec<Job>) {
        if group.is_empty() {
            return;
        }
        let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
        let before = store.version();
        let at = now();
        let mut answers = Vec::with_capacity(group.len());
        for job in group {
            let mut effects = Vec::new();
            let verdict = store.step_with(at, &job.write, &job.options, &mut effects);
            if let Some(journal) = &mut self.journal {
                journal.append(at, &job.write, &job.options, &verdict, &effects);
            }
            let result = verdict.and_then(|()| answer(effects));
            answers.push((job.reply, result));
        }
        // Saved before any reply leaves.
        if let Err(error) = commit(&self.disk, &mut store) {
            tracing::error!(%error, "cannot save the Kubernetes state");
            for (_, result) in &mut answers {
                if result.is_ok() {
                    *result = Err(ApiError::internal(&error));
                }
            }
            self.roll_back(&mut store);
            if let Some(journal) = &mut self.journal {
                journal.begin_anew(&self.disk, store.version());
            }
        }
        if let Some(journal) = &mut self.journal {
            journal.flush();
        }
        let version = store.version();
        drop(store);
        for (reply, result) in answers {
            // The writer may have gone away; the write holds all the same.
            let _ = reply.send(result);
        }
        if version != before {
            self.told.send_replace(version);
        }
    }

    /// What could not be saved did not happen: back to what the disk says.
    fn roll_back(&self, store: &mut Store) {
        let again = self.disk.load(TABLE).ok().and_then(|records| Store::load(store.version(), records).ok());
        match again {
            Some(again) => *store = again,
            None => tracing::error!("cannot read the Kubernetes state back; restart ebbtide"),
        }
    }
}

fn answer(effects: Vec<Effect>) -> Result<Reply, ApiError> {
    let mut warnings = Vec::new();
    let mut reply = None;
    for effect in effects {
        match effect {
            Effect::Reply { object, outcome } => reply = reply.or(Some((object, outcome))),
            Effect::Warning(text) => warnings.push(text),
            Effect::Changed(_) => {}
        }
    }
    let (object, outcome) = reply.ok_or_else(|| ApiError::internal("a write without an answer"))?;
    Ok(Reply { object, outcome, warnings })
}

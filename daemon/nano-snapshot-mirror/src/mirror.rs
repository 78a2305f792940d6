//! Without a sub-command: follow the pointer, fetch what it names, seed it, for years.

use std::collections::{HashMap, HashSet};
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::task;
use std::time::{Duration, SystemTime};

use anyhow::{Error, Result};
use bittorrent_protocol::InfoHashV2;
use futures_util::future::join_all;
use snapshot_pointer::{Poll, RecordError, Republished};
use tokio::sync::watch;
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::catalogue::{self, Entry, Held, Retention, State};
use crate::config::{self, Live, Mistakes, Reloaded, Size};
use crate::control::{self, Added, Denied, Request, Requests};
use crate::data_dir::{DataDir, StreamName};
use crate::followed::Followed;
use crate::happenings;
use crate::hooks::Hooks;
use crate::ledger_policy::{LedgerPolicy, Verdict};
use crate::logging;
use crate::network::{Network, PortTaken};
use crate::pause::Paused;
use crate::progress::Display;
use crate::reconcile::{Decision, Holding, Situation, decide};
use crate::report::{Following, Phase, Reporter};
use crate::scrub::{self, Scrubs};
use crate::servers::Doors;
use crate::signals::Signals;
use crate::space;
use crate::stream;
use crate::systemd::{Inherited, Manager};
use crate::text::Causes;
use crate::torrent::{self, Fetched, Torrent, Wanted};
use crate::watchdog::Life;

/// Time to the next look-up while no pointer is known or none could be looked up; doubled each
/// time, and never above the poll interval.
const FIRST_RETRY: Duration = Duration::from_secs(5);

/// And at most so long: networks come up some time after machines do.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// A poll that takes longer hangs: each of its look-ups ends by itself long before.
const POLL_LIMIT: Duration = Duration::from_secs(5 * 60);

/// How soon to try again what a full disk kept from being done.
const ROOM_RETRY: Duration = Duration::from_secs(5);

/// How long the same about a full disk is not said again.
const SAY_AGAIN: Duration = Duration::from_secs(3600);

/// What is wrong when the disk has no room, for programs.
const DISK_FULL: &str = "disk-full";

/// Mirrors until asked to stop.
pub(crate) async fn run(live: &Live, display: &Display, signals: &Signals) -> Result<()> {
    let mut manager = Manager::default();
    manager.starting("opening the store");
    let config = live.config();
    let data = DataDir::create(config.data_dir.as_deref())?
        .with_reserve(config.disk.reserve.map(Size::get));
    let streams = config
        .stream
        .iter()
        .map(|(name, stream)| Followed::open(name, stream, &data))
        .collect::<Result<Vec<_>>>()?;
    let cleaned = data.clean_incoming()?;
    if cleaned > 0 {
        info!(
            cleaned,
            "removed what an interrupted command left in incoming/"
        );
    }
    let mut inherited = Inherited::take()?;
    let doors = Doors::open(&config, &data, &mut inherited)?;
    let network = Network::start(live, &data, PortTaken::Fail, inherited.peer).await?;
    let (requests_to, requests) = control::requests();
    let life = Life::new();
    let reporter = Reporter::start(
        &network,
        data.root().to_owned(),
        doors.addresses(&network),
        life.dht.clone(),
    );
    let servers = doors.serve(&reporter.watching(), requests_to, &data, network.dht());
    let hooks = Hooks::start(live.subscribe(), data.root().to_owned());
    let names: Vec<&str> = config.stream.iter().map(|(name, _)| name).collect();
    info!(
        data_dir = %data.root().display(), streams = names.join(","),
        poll_interval = ?config.poll_interval.get(), "mirroring"
    );
    let mut service = Service {
        network: &network,
        data: &data,
        streams,
        display,
        policy: LedgerPolicy::from(&config.verify),
        live,
        retry: FIRST_RETRY,
        seeding: HashMap::new(),
        fetching: Vec::new(),
        verifying: None,
        failed: HashSet::new(),
        told_refused: HashSet::new(),
        reporter,
        requests,
        life,
        manager,
        hooks: &hooks,
        paused: watch::Sender::default(),
        room: None,
        told_room: None,
        scrubs: Scrubs::new(scrub::Settings::from(&config.scrub)),
    };
    let served = service.serve(signals).await;
    let reporter = service.part();
    servers.close().await;
    hooks.close().await;
    reporter.end().await;
    network.close(&data).await;
    info!("stopped");
    served
}

type Running<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A running download.
struct Fetching<'a> {
    id: InfoHashV2,
    stop: CancellationToken,
    task: Running<'a, Result<Fetched>>,
}

/// A ledger that is being looked into.
struct Verifying<'a> {
    id: InfoHashV2,
    stop: CancellationToken,
    task: Running<'a, Result<Option<Verdict>>>,
}

/// What the service waits for.
enum Event {
    Stop,
    Rescan,
    PollDue,
    Polled(Vec<Polled>),
    Republished(Vec<Result<Vec<Republished>, RecordError>>),
    Fetched(InfoHashV2, Result<Fetched>),
    Verified(InfoHashV2, Result<Option<Verdict>>),
    Asked(Request),
    ReportDue,
    /// A download lacks room on the disk, or has it again.
    Paused,
    /// Time to try again what lacked room on the disk.
    RoomDue,
    /// A scrub found something or ended, or it is time to look whether one is due.
    Scrub(scrub::Event),
}

/// The look-up of one stream.
type Polled = (StreamName, Result<Poll, RecordError>);

struct Service<'a> {
    network: &'a Network,
    data: &'a DataDir,
    streams: Vec<Followed>,
    display: &'a Display,
    policy: LedgerPolicy,
    live: &'a Live,
    retry: Duration,
    seeding: HashMap<InfoHashV2, Torrent>,
    /// At most one for each stream: one without peers does not keep others waiting.
    fetching: Vec<Fetching<'a>>,
    verifying: Option<Verifying<'a>>,
    /// What failed to be downloaded or looked into is tried again at the next poll, not at once.
    failed: HashSet<InfoHashV2>,
    told_refused: HashSet<InfoHashV2>,
    reporter: Reporter,
    requests: Requests,
    life: Life,
    manager: Manager,
    hooks: &'a Hooks,
    /// Downloads that wait for room on the disk.
    paused: watch::Sender<Paused>,
    /// When to try again what lacked room on the disk.
    room: Option<Instant>,
    /// What was said of that, and when.
    told_room: Option<(String, Instant)>,
    scrubs: Scrubs,
}

impl<'a> Service<'a> {
    /// Ends with everything but the reporter, to whom others still listen.
    fn part(self) -> Reporter {
        self.reporter
    }

    async fn serve(&mut self, signals: &Signals) -> Result<()> {
        for followed in &mut self.streams {
            followed.recall(&mut self.reporter)?;
        }
        self.rescan().await?;
        self.act().await?;
        let mut poll: Option<Running<'a, _>> = None;
        let mut republish: Option<Running<'a, _>> = None;
        let mut next_poll = Instant::now();
        let mut paused = self.paused.subscribe();
        self.reporter.enter(None);
        self.manager.ready();
        let watchdog = self.life.watch(self.network.session());
        loop {
            self.life.mirror.beat();
            self.report(poll.is_none().then_some(next_poll));
            let event = tokio::select! {
                () = signals.stop.cancelled() => Event::Stop,
                () = signals.rescan.notified() => Event::Rescan,
                polled = running(&mut poll) => Event::Polled(polled),
                republished = running(&mut republish) => Event::Republished(republished),
                (id, fetched) = first_fetched(&mut self.fetching) => Event::Fetched(id, fetched),
                (id, verdict) = verified(&mut self.verifying) => Event::Verified(id, verdict),
                () = sleep_until(next_poll), if poll.is_none() => Event::PollDue,
                Some(request) = self.requests.recv() => Event::Asked(request),
                () = self.reporter.due() => Event::ReportDue,
                // We hold the other end.
                Ok(()) = paused.changed() => Event::Paused,
                () = due(self.room) => Event::RoomDue,
                event = self.scrubs.next() => Event::Scrub(event),
            };
            match event {
                Event::Stop => break,
                Event::Rescan => {
                    self.manager.reloading();
                    // Mistakes were logged, and what was in effect stays.
                    let _ = self.reload().await;
                    self.failed.clear();
                    self.rescan().await?;
                    self.manager.ready();
                    next_poll = Instant::now();
                }
                Event::ReportDue => continue,
                Event::Asked(Request::AddSnapshot(id, reply)) => {
                    for followed in &mut self.streams {
                        followed.catch_up();
                    }
                    // Whoever asked may have gone.
                    let _ = reply.send(self.add(id).await);
                }
                Event::Asked(Request::Scrub(id, reply)) => {
                    let seeded = self.seeding.contains_key(&id);
                    if seeded {
                        self.scrubs.ask(id);
                    }
                    let unknown = || Denied::Unknown(format!("{id} is not seeded here"));
                    let _ = reply.send(seeded.then_some(()).ok_or_else(unknown));
                    continue;
                }
                Event::Asked(Request::Reload(reply)) => {
                    let reloaded = self.reload().await.map_err(|mistakes| {
                        Denied::Unfit(mistakes.lines().collect::<Vec<_>>().join("; "))
                    });
                    let _ = reply.send(reloaded);
                }
                Event::Asked(Request::Refresh(reply)) => {
                    self.failed.clear();
                    self.rescan().await?;
                    next_poll = Instant::now();
                    let _ = reply.send(Ok(()));
                }
                Event::PollDue => {
                    self.rescan().await?;
                    poll = Some(self.poll());
                    self.life.discovery.renew(POLL_LIMIT);
                    continue;
                }
                Event::Polled(polled) => {
                    poll = None;
                    let pause = self.heard(polled);
                    next_poll = Instant::now() + pause;
                    self.life.discovery.renew(pause + POLL_LIMIT);
                    self.failed.clear();
                    republish.get_or_insert_with(|| self.republish());
                }
                Event::Republished(results) => {
                    republish = None;
                    results.into_iter().for_each(log_republished);
                    continue;
                }
                Event::Fetched(id, result) => {
                    self.fetching.retain(|fetching| fetching.id != id);
                    self.fetched(id, result);
                }
                Event::Verified(id, result) => {
                    self.verifying = None;
                    self.verified(id, result).await;
                }
                Event::Paused => {
                    let paused = paused.borrow_and_update().clone();
                    self.make_room(&paused).await?;
                    continue;
                }
                Event::Scrub(event) => {
                    let settings = scrub::Settings::from(&self.live.config().scrub);
                    self.scrubs.take(event, settings, &self.seeding).await;
                    continue;
                }
                Event::RoomDue => {
                    self.room = None;
                    self.reporter.problem(DISK_FULL, "", None);
                    self.failed.clear();
                    self.rescan().await?;
                }
            }
            self.act().await?;
        }
        drop(watchdog);
        self.manager.stopping();
        self.reporter.enter(Some(Phase::Stopping));
        self.report(None);
        self.stop_verifying().await;
        while let Some(fetching) = self.fetching.pop() {
            self.abandon(fetching).await;
        }
        self.scrubs.stop_all().await;
        for (_, torrent) in self.seeding.drain() {
            torrent.leave().await;
        }
        Ok(())
    }

    /// Tells those who watch how it stands.
    fn report(&mut self, next_poll: Option<Instant>) {
        let poll_interval = self.live.config().poll_interval.get();
        let following: Vec<Following<'_>> = self
            .streams
            .iter()
            .map(|followed| Following {
                stream: &followed.stream,
                desired: followed.desired,
                active: followed.active,
                // A link that cannot be read ends the mirror when it acts on it.
                current: self.data.current_of(&followed.stream.name).unwrap_or(None),
                poll_interval,
                next_lookup: next_poll.map(|at| at.saturating_duration_since(Instant::now())),
            })
            .collect();
        let (before, report) = self
            .reporter
            .publish(self.network, self.display, &following);
        self.manager.status(&report.line());
        for happening in happenings::between(&before, &report) {
            happening.log();
            self.hooks.tell(happening);
        }
    }

    /// Takes up a snapshot that another process has put into the store.
    async fn add(&mut self, id: InfoHashV2) -> Result<Added, Denied> {
        let before = self.seeding.contains_key(&id);
        match self.holding(id).await {
            // Looking into its ledger comes next, while it is seeded.
            Holding::Whole | Holding::Unverified => Ok(Added { before }),
            Holding::None => Err(Denied::Unknown(format!("there is no snapshot {id} here"))),
            Holding::Refused => Err(Denied::Unfit(format!("snapshot {id} is no sound ledger"))),
            Holding::Partial => Err(Denied::Unfit(format!(
                "snapshot {id} is not whole, or another process works on it"
            ))),
        }
    }

    /// Looks up all streams at once, each as it is now.
    fn poll(&self) -> Running<'a, Vec<Polled>> {
        let dht = self.network.dht();
        let polls: Vec<_> = self
            .streams
            .iter()
            .map(|followed| {
                let stream = &followed.stream;
                let (name, follower) = (stream.name.clone(), stream.follower.clone());
                async move {
                    let early = &stream::note_early;
                    let polled = follower.poll(&**dht, SystemTime::now(), early).await;
                    (name, polled)
                }
            })
            .collect();
        Box::pin(join_all(polls))
    }

    fn republish(&self) -> Running<'a, Vec<Result<Vec<Republished>, RecordError>>> {
        let dht = self.network.dht();
        let puts: Vec<_> = self
            .streams
            .iter()
            .map(|followed| {
                let follower = followed.stream.follower.clone();
                async move { follower.republish(&**dht, SystemTime::now()).await }
            })
            .collect();
        Box::pin(join_all(puts))
    }

    /// Takes the results of a poll, and says when to poll again.
    fn heard(&mut self, polled: Vec<Polled>) -> Duration {
        let mut soon = false;
        for (name, polled) in polled {
            let followed = self.streams.iter_mut().find(|one| one.stream.name == name);
            // It may have left with a reload.
            if let Some(followed) = followed {
                soon |= followed.hear(polled, &mut self.reporter);
            }
        }
        let interval = self.live.config().poll_interval.get();
        if soon {
            let pause = self.retry.min(interval);
            self.retry = (self.retry * 2).min(LAST_RETRY);
            return pause;
        }
        self.retry = FIRST_RETRY;
        interval
    }

    /// Reads the configuration again. What does not look at it each time is told here.
    async fn reload(&mut self) -> Result<Reloaded, Mistakes> {
        let reloaded = self.live.reload_and_log();
        let config = self.live.config();
        logging::set_level(config.log.level);
        let mut before = std::mem::take(&mut self.streams);
        for (name, stream) in config.stream.iter() {
            let old = before
                .iter()
                .position(|one| one.stream.name.as_str() == name)
                .map(|index| before.swap_remove(index));
            match old {
                Some(old) if old.stream.config == *stream => self.streams.push(old),
                old => match self.begin(name, stream) {
                    Ok(mut new) => {
                        new.active = old.and_then(|old| old.active);
                        self.streams.push(new);
                    }
                    Err(error) => {
                        error!(
                            stream = name,
                            "not followed as it is configured now: {error:#}"
                        );
                        self.streams.extend(old);
                    }
                },
            }
        }
        for left in before {
            info!(stream = left.stream.name.as_str(), "no longer followed");
            self.reporter.forget(&left.stream.name);
            if let Some(active) = left.active {
                self.let_go(active).await;
            }
        }
        reloaded
    }

    /// Begins to follow a stream that came with a reload.
    fn begin(&mut self, name: &str, stream: &config::Stream) -> Result<Followed> {
        let mut followed = Followed::open(name, stream, self.data)?;
        followed.recall(&mut self.reporter)?;
        info!(stream = name, "followed from now on");
        Ok(followed)
    }

    /// Whether some stream is to have this snapshot.
    fn wants(&self, id: InfoHashV2) -> bool {
        self.streams.iter().any(|one| one.desired == Some(id))
    }

    fn is_fetching(&self, id: InfoHashV2) -> bool {
        self.fetching.iter().any(|fetching| fetching.id == id)
    }

    /// Seeds everything whole that is not seeded yet: at the start, and when a producer or a
    /// fetch has added to the same store.
    async fn rescan(&mut self) -> Result<()> {
        self.take_out_stopped().await;
        for id in self.data.snapshot_ids()? {
            self.life.mirror.beat();
            if self.seeding.contains_key(&id) || self.is_fetching(id) {
                continue;
            }
            self.holding(id).await;
        }
        Ok(())
    }

    /// Takes out of the session what stopped there, mostly for a failing disk, so that it is looked
    /// at anew.
    async fn take_out_stopped(&mut self) {
        let stopped: Vec<InfoHashV2> = self
            .seeding
            .iter()
            .filter(|(_, torrent)| torrent.status().phase.error().is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in stopped {
            let Some(torrent) = self.leave(id).await else {
                continue;
            };
            if let Some(error) = torrent.status().phase.error() {
                error!(snapshot = %id, "seeding stopped: {}", Causes(&**error));
            }
            torrent.leave().await;
        }
    }

    /// Takes a seeded snapshot out of what is seeded and scrubbed; it is still in the session.
    async fn leave(&mut self, id: InfoHashV2) -> Option<Torrent> {
        self.scrubs.stop(id).await;
        self.seeding.remove(&id)
    }

    /// What is held of `id`; a whole snapshot is seeded from here on, unless its ledger is refused.
    async fn holding(&mut self, id: InfoHashV2) -> Holding {
        if let Some(torrent) = self.seeding.get(&id) {
            let verdict = self.policy.judge(&torrent.dir, &torrent.store.info());
            return self.holding_by(id, verdict);
        }
        match block_in_place(|| catalogue::look(self.data, id)) {
            Some(Entry::Whole(generation) | Entry::Mending(generation)) => {
                let verdict = self.policy.judge(&generation.dir, &generation.store.info());
                let holding = self.holding_by(id, verdict);
                if holding != Holding::Refused {
                    match Torrent::seed(self.network, generation).await {
                        Ok(torrent) => {
                            info!(snapshot = %id, "seeding");
                            self.seeding.insert(id, torrent);
                        }
                        Err(error) => error!(snapshot = %id, "cannot be seeded: {error:#}"),
                    }
                }
                holding
            }
            Some(Entry::Refused(faults)) => self.holding_by(id, Verdict::Refused(faults)),
            // Fetching waits for whoever is busy, and names what is damaged.
            Some(Entry::Partial | Entry::Busy) => Holding::Partial,
            Some(Entry::Damaged(error)) => {
                if space::is_lacking(&error) {
                    self.lacks_room(&error, "a snapshot that is held is not taken up");
                } else {
                    error!(snapshot = %id, "damaged: {error:#}");
                }
                Holding::Partial
            }
            None => Holding::None,
        }
    }

    fn holding_by(&mut self, id: InfoHashV2, verdict: Verdict) -> Holding {
        match verdict {
            Verdict::Sound => Holding::Whole,
            Verdict::Unverified => Holding::Unverified,
            Verdict::Refused(reasons) => {
                if self.wants(id) && self.told_refused.insert(id) {
                    error!(
                        snapshot = %id,
                        "refused, staying with what is current: {}", reasons.join("; ")
                    );
                }
                Holding::Refused
            }
        }
    }

    /// Carries out decisions for every stream until there is nothing to do but wait.
    async fn act(&mut self) -> Result<()> {
        let mut settled = false;
        for index in 0..self.streams.len() {
            settled |= self.act_for(index).await?;
        }
        if settled {
            self.retire().await?;
        }
        Ok(())
    }

    /// The same for one stream. Returns whether it has what it wants.
    async fn act_for(&mut self, index: usize) -> Result<bool> {
        loop {
            let Some(followed) = self.streams.get(index) else {
                return Ok(false);
            };
            let (desired, active) = (followed.desired, followed.active);
            let name = followed.stream.name.clone();
            let stream = name.as_str();
            let holding = match desired {
                // What is being fetched, for this stream or another, is locked.
                Some(desired) if !self.is_fetching(desired) => self.holding(desired).await,
                _ => Holding::None,
            };
            let current = self.data.current_of(&name)?;
            let situation = Situation {
                desired,
                active,
                holding,
                current,
            };
            let decision = decide(situation);
            debug!(stream, ?situation, ?decision);
            let refused = matches!(decision, Decision::Refuse(_));
            let text =
                || format!("stream {stream}: the published snapshot is refused, see the log");
            self.reporter
                .problem("ledger-unsound", stream, refused.then(text));
            match decision {
                Decision::Keep => return Ok(true),
                Decision::Wait | Decision::Continue => return Ok(false),
                Decision::Fetch { snapshot, .. } | Decision::Verify(snapshot)
                    if self.failed.contains(&snapshot) || self.room.is_some() =>
                {
                    return Ok(false);
                }
                Decision::Fetch { snapshot, resume } => {
                    info!(stream, %snapshot, resume, "fetching");
                    if !self.is_fetching(snapshot) {
                        self.fetch(snapshot);
                    }
                    self.set_active(index, Some(snapshot));
                    return Ok(false);
                }
                Decision::Verify(snapshot) => {
                    self.verify(snapshot).await;
                    return Ok(false);
                }
                Decision::Switch(snapshot) => match self.switch(&name, snapshot) {
                    Err(error) if space::is_lacking(&error) => {
                        self.lacks_room(&error, "the new snapshot is whole and not yet current");
                        return Ok(false);
                    }
                    other => other?,
                },
                Decision::Abandon(snapshot) => {
                    info!(stream, %snapshot, "giving up: the pointer names another one now");
                    self.set_active(index, None);
                    self.let_go(snapshot).await;
                }
                // Its reasons were told when it was looked at.
                Decision::Refuse(_) => return Ok(false),
            }
        }
    }

    fn set_active(&mut self, index: usize, active: Option<InfoHashV2>) {
        if let Some(followed) = self.streams.get_mut(index) {
            followed.active = active;
        }
    }

    fn fetch(&mut self, id: InfoHashV2) {
        let stop = CancellationToken::new();
        let (network, data, display, until) = (self.network, self.data, self.display, stop.clone());
        let (policy, told) = (self.policy.clone(), self.paused.clone());
        let open = self.seeding.values();
        let open = open.map(|torrent| (torrent.id, torrent.store.clone()));
        let open = open.collect();
        let task = Box::pin(async move {
            let wanted = Wanted {
                id,
                open,
                policy: &policy,
                reader: None,
                or_refuse: false,
                paused: &told,
            };
            torrent::fetch(network, data, wanted, display, &until).await
        });
        self.fetching.push(Fetching { id, stop, task });
    }

    fn fetched(&mut self, id: InfoHashV2, result: Result<Fetched>) {
        let failure = result.as_ref().err();
        let failure = failure.map(|error| format!("snapshot {id}: {error:#}"));
        for followed in &mut self.streams {
            if followed.active == Some(id) {
                followed.active = None;
                let name = followed.stream.name.as_str();
                self.reporter.problem("fetch-failed", name, failure.clone());
            }
        }
        match result {
            Ok(Fetched::Whole(torrent)) => {
                self.seeding.insert(id, *torrent);
            }
            Ok(Fetched::Stopped) => {}
            Err(error) => {
                error!(snapshot = %id, "not fetched, trying again at the next poll: {error:#}");
                self.failed.insert(id);
            }
        }
    }

    /// Begins to look into the ledger of a snapshot that is seeded, on a thread of its own: seeding
    /// and following go on meanwhile.
    async fn verify(&mut self, id: InfoHashV2) {
        // One at a time: another stream's turn comes when this one ends.
        if self
            .verifying
            .as_ref()
            .is_some_and(|one| self.wants(one.id))
        {
            return;
        }
        self.stop_verifying().await;
        let Some(torrent) = self.seeding.get(&id) else {
            // It could not be seeded, which was said.
            self.failed.insert(id);
            return;
        };
        info!(snapshot = %id, level = ?self.policy.level, "looking into the ledger");
        let stop = CancellationToken::new();
        let (policy, display, until) = (self.policy.clone(), self.display.clone(), stop.clone());
        let (dir, content) = (torrent.dir.clone(), torrent.store.info());
        let task = spawn_blocking(move || policy.verify_held(&dir, &content, &display, &until));
        let task = Box::pin(async move { task.await? });
        self.verifying = Some(Verifying { id, stop, task });
    }

    async fn verified(&mut self, id: InfoHashV2, result: Result<Option<Verdict>>) {
        match result {
            Ok(Some(Verdict::Sound)) => info!(snapshot = %id, "the ledger is sound"),
            Ok(Some(Verdict::Refused(reasons))) => {
                error!(snapshot = %id, faults = ?reasons, "the ledger is refused");
                if let Some(torrent) = self.leave(id).await {
                    torrent.leave().await;
                }
            }
            Ok(Some(Verdict::Unverified) | None) => {
                self.failed.insert(id);
            }
            Err(error) => {
                if space::is_lacking(&error) {
                    self.lacks_room(&error, "what verification found is not kept");
                } else {
                    error!(snapshot = %id, "the ledger cannot be looked into: {error:#}");
                }
                let text = format!("snapshot {id}: the ledger cannot be looked into: {error:#}");
                for followed in self.streams.iter().filter(|one| one.desired == Some(id)) {
                    let name = followed.stream.name.as_str();
                    self.reporter
                        .problem("fetch-failed", name, Some(text.clone()));
                }
                self.failed.insert(id);
            }
        }
    }

    /// Ends the running look into a ledger; what it found so far is lost.
    async fn stop_verifying(&mut self) {
        if let Some(verifying) = self.verifying.take() {
            verifying.stop.cancel();
            if let Err(error) = verifying.task.await {
                warn!(snapshot = %verifying.id, "looking into the ledger ended with: {error:#}");
            }
        }
    }

    /// Something could not be written: it is tried again soon.
    fn lacks_room(&mut self, error: &Error, what: &str) {
        let text = format!("{what}: {error:#}");
        self.reporter.problem(DISK_FULL, "", Some(text.clone()));
        let now = Instant::now();
        let known = |(told, at): &(String, Instant)| *told == text && now < *at + SAY_AGAIN;
        if !self.told_room.as_ref().is_some_and(known) {
            warn!("paused until there is room on the disk, nothing is lost: {text}");
            self.told_room = Some((text, now));
        }
        self.room = Some(now + ROOM_RETRY);
    }

    /// Makes a whole snapshot the current one.
    fn switch(&self, stream: &StreamName, id: InfoHashV2) -> Result<()> {
        self.data.switch(stream, id, &self.data.lock()?)?;
        info!(snapshot = %id, stream = stream.as_str(), "now current");
        Ok(())
    }

    /// Removes what is superseded, whoever switched: a producer in the same store cannot remove
    /// what this process seeds.
    async fn retire(&mut self) -> Result<()> {
        let keep = Retention::from(&self.live.config().retention);
        self.retire_to(keep).await
    }

    /// Makes room for the downloads that lack it: only what has to be kept is.
    async fn make_room(&mut self, paused: &Paused) -> Result<()> {
        for followed in &self.streams {
            let pause = followed.active.and_then(|id| paused.get(&id));
            let name = followed.stream.name.as_str();
            let text = pause.map(ToString::to_string);
            self.reporter.problem(DISK_FULL, name, text);
        }
        if !paused.is_empty() {
            self.retire_to(Retention::LEAST).await?;
        }
        Ok(())
    }

    async fn retire_to(&mut self, keep: Retention) -> Result<()> {
        let current = catalogue::current(self.data)?;
        let ids = self.data.snapshot_ids()?;
        // Opening partial ones takes time, so only when something may be there to remove.
        let kept = current.len().saturating_add(keep.generations as usize - 1);
        if ids.len() <= kept && keep.size.is_none() {
            return Ok(());
        }
        let held: Vec<Held> = ids
            .into_iter()
            .map(|id| {
                let state = if self.seeding.contains_key(&id) {
                    State::Whole
                } else {
                    block_in_place(|| catalogue::look(self.data, id))
                        .map_or(State::Untouchable, |entry| State::from(&entry))
                };
                Held::new(self.data, id, state)
            })
            .collect();
        let desired = self.streams.iter().filter_map(|one| one.desired);
        let fetched = self.fetching.iter().map(|fetching| fetching.id);
        let wanted: Vec<InfoHashV2> = desired.chain(fetched).collect();
        for old in catalogue::superseded(&held, &current, &wanted, keep) {
            if let Some(torrent) = self.leave(old).await {
                drop(torrent.leave().await);
            }
            let removed = block_in_place(|| catalogue::remove(self.data, old, &self.data.lock()?));
            if let Err(error) = removed {
                warn!(snapshot = %old, "not removed: {error:#}");
            }
        }
        Ok(())
    }

    /// Ends a download that no stream waits for any longer.
    async fn let_go(&mut self, id: InfoHashV2) {
        if self.streams.iter().any(|one| one.active == Some(id)) {
            return;
        }
        let running = self.fetching.iter().position(|one| one.id == id);
        if let Some(index) = running {
            let fetching = self.fetching.swap_remove(index);
            self.abandon(fetching).await;
        }
    }

    /// Ends a running download; what it has stays on disk.
    async fn abandon(&mut self, fetching: Fetching<'a>) {
        fetching.stop.cancel();
        match fetching.task.await {
            Ok(Fetched::Whole(torrent)) => {
                self.seeding.insert(fetching.id, *torrent);
            }
            Ok(Fetched::Stopped) => {}
            Err(error) => warn!(snapshot = %fetching.id, "ended with: {error:#}"),
        }
    }
}

/// The end of what runs in `slot`; never, when nothing does.
async fn running<T>(slot: &mut Option<Running<'_, T>>) -> T {
    match slot {
        Some(task) => task.await,
        None => pending().await,
    }
}

/// The first of the downloads to end; never, while there is none.
async fn first_fetched(fetching: &mut [Fetching<'_>]) -> (InfoHashV2, Result<Fetched>) {
    poll_fn(|context| {
        let ended = fetching
            .iter_mut()
            .find_map(|one| match one.task.as_mut().poll(context) {
                task::Poll::Ready(fetched) => Some((one.id, fetched)),
                task::Poll::Pending => None,
            });
        ended.map_or(task::Poll::Pending, task::Poll::Ready)
    })
    .await
}

async fn due(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

async fn verified(slot: &mut Option<Verifying<'_>>) -> (InfoHashV2, Result<Option<Verdict>>) {
    match slot {
        Some(verifying) => (verifying.id, (&mut verifying.task).await),
        None => pending().await,
    }
}

fn log_republished(result: Result<Vec<Republished>, RecordError>) {
    match result {
        Ok(items) => {
            for item in items {
                match item.result {
                    Ok(stored) => {
                        debug!(seq = %item.item.seq(), nodes = stored.nodes, "pointer put again");
                    }
                    Err(error) => info!(
                        seq = %item.item.seq(), "pointer not put again: {:#}", Error::from(error)
                    ),
                }
            }
        }
        Err(error) => error!("pointers are not kept alive: {:#}", Error::from(error)),
    }
}

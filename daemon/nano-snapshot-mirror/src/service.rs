//! Without a sub-command: follow the pointer, fetch what it names, seed it, for years.

mod downloads;
mod health;
mod heartbeats;
mod held;
mod ledgers;
pub(crate) mod reconcile;
mod room;
pub(crate) mod scrub;
mod streams;
mod unfinished;

use std::collections::{HashMap, HashSet};
use std::future::{Future, pending};
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use bittorrent_protocol::InfoHashV2;
use downloads::{Fetching, first_fetched};
use file_kit::recorded_time::unix_seconds;
use health::{CHECK_EVERY, Checked, Health};
use ledgers::{Verifying, verified};
use room::DISK_FULL;
use service_kit::signals::Signals;
use service_kit::systemd::{InheritedSockets, Notifier, SocketNames};
use snapshot_store::{DataDir, SnapshotInfo, StreamName, is_out_of_space};
use streams::{FIRST_RETRY, KeptAlive, Polled, Round};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::api::control::{self, Denied, Request, Requests};
use crate::api::listeners::Listeners;
use crate::config::{Live, Size};
use crate::ledger::policy::{LedgerPolicy, Verdict};
use crate::observe::events;
use crate::observe::hooks::Hooks;
use crate::observe::report::{FollowedState, Reporter, ServicePhase};
use crate::pointers::followed::Followed;
use crate::progress::ProgressDisplay;
use crate::service::reconcile::{Decision, Holding, Situation, decide};
use crate::service::scrub::Scrubs;
use crate::transfer::disk_pause::PausedDownloads;
use crate::transfer::download::DownloadOutcome;
use crate::transfer::network::{Network, Role};
use crate::transfer::quota::{Allowance, Quota};
use crate::transfer::snapshot_torrent::SnapshotTorrent;

use heartbeats::Heartbeats;
/// A poll that takes longer hangs: each of its look-ups ends by itself long before.
const POLL_LIMIT: Duration = Duration::from_secs(5 * 60);

/// The sockets that the mirror accepts from the service manager.
const SOCKETS: SocketNames = SocketNames {
    tcp: &["peer", "http"],
    unix: &["control"],
};

/// Mirrors until asked to stop.
pub(crate) async fn run(live: &Live, display: &ProgressDisplay, signals: &Signals) -> Result<()> {
    let mut manager = Notifier::default();
    manager.starting("opening the store");
    let config = live.config();
    let data = DataDir::create(config.data_dir.as_deref())?
        .with_reserve(config.disk.reserve.map(Size::get));
    let _only_mirror = data.lock_for_mirror()?;
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
    let mut inherited = InheritedSockets::take(&SOCKETS)?;
    let doors = Listeners::open(&config, &data, &mut inherited)?;
    let network = Network::start(live, &data, Role::Mirror(inherited.take_tcp("peer"))).await?;
    let (requests_to, requests) = control::requests();
    let life = Heartbeats::new();
    let reporter = Reporter::start(
        &network,
        data.root().to_owned(),
        doors.addresses(&network),
        life.dht.clone(),
    );
    let servers = doors.serve(&reporter.watching(), &requests_to, &data, network.dht());
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
        store_retry: None,
        health: Health::default(),
        scrubs: Scrubs::new(scrub::Settings::from(&config.scrub)),
        quota: Quota::open(&data, unix_seconds(SystemTime::now())),
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

/// What the service waits for.
enum Event {
    Stop,
    Rescan,
    PollDue,
    Polled(Vec<Polled>),
    /// Time to keep alive what the authorities signed.
    KeepAliveDue,
    KeptAlive(Vec<KeptAlive>),
    Fetched(InfoHashV2, Result<DownloadOutcome>),
    Verified(InfoHashV2, Result<Option<Verdict>>),
    Asked(Request),
    ReportDue,
    /// A download lacks room on the disk, or has it again.
    Paused,
    /// Time to try again what lacked room on the disk.
    RoomDue,
    /// Time to try again what the data directory did not allow.
    StoreDue,
    /// Time to look whether the files of what is seeded are still there.
    CheckDue,
    Checked(Checked),
    /// A scrub found something or ended, or it is time to look whether one is due.
    Scrub(scrub::Event),
}

struct Service<'a> {
    network: &'a Network,
    data: &'a DataDir,
    streams: Vec<Followed>,
    display: &'a ProgressDisplay,
    policy: LedgerPolicy,
    live: &'a Live,
    retry: Duration,
    seeding: HashMap<InfoHashV2, SnapshotTorrent>,
    /// At most one for each stream: one without peers does not keep others waiting.
    fetching: Vec<Fetching<'a>>,
    verifying: Option<Verifying<'a>>,
    /// What failed to be downloaded or looked into is tried again at the next poll, not at once.
    failed: HashSet<InfoHashV2>,
    told_refused: HashSet<InfoHashV2>,
    reporter: Reporter,
    requests: Requests,
    life: Heartbeats,
    manager: Notifier,
    hooks: &'a Hooks,
    /// Downloads that wait for room on the disk.
    paused: watch::Sender<PausedDownloads>,
    /// When to try again what lacked room on the disk.
    room: Option<Instant>,
    /// What was said of that, and when.
    told_room: Option<(String, Instant)>,
    /// When to try again what the data directory did not allow.
    store_retry: Option<Instant>,
    health: Health,
    scrubs: Scrubs,
    quota: Quota,
}

impl<'a> Service<'a> {
    /// Ends with everything but the reporter, to whom others still listen.
    fn part(self) -> Reporter {
        self.reporter
    }

    async fn serve(&mut self, signals: &Signals) -> Result<()> {
        for followed in &mut self.streams {
            followed.recall(&mut self.reporter);
        }
        self.tell_left_behind();
        self.rescan().await;
        self.act().await;
        // Who connected since the last run ended is served now.
        self.network.session().start_accepting();
        let mut poll: Option<Running<'a, _>> = None;
        let mut keeping: Option<Running<'a, _>> = None;
        // The first round comes with the first look-up.
        let mut next_round = None;
        let mut round = Round::All;
        let mut next_poll = Instant::now();
        let mut checking: Option<Running<'a, _>> = None;
        let mut next_check = Instant::now() + CHECK_EVERY;
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
                kept = running(&mut keeping) => Event::KeptAlive(kept),
                () = due(next_round), if keeping.is_none() => Event::KeepAliveDue,
                (id, fetched) = first_fetched(&mut self.fetching) => Event::Fetched(id, fetched),
                (id, verdict) = verified(&mut self.verifying) => Event::Verified(id, verdict),
                () = sleep_until(next_poll), if poll.is_none() => Event::PollDue,
                Some(request) = self.requests.recv() => Event::Asked(request),
                () = self.reporter.due() => Event::ReportDue,
                // We hold the other end.
                Ok(()) = paused.changed() => Event::Paused,
                () = due(self.room) => Event::RoomDue,
                () = due(self.store_retry) => Event::StoreDue,
                () = sleep_until(next_check), if checking.is_none() => Event::CheckDue,
                checked = running(&mut checking) => Event::Checked(checked),
                event = self.scrubs.next() => Event::Scrub(event),
            };
            match event {
                Event::Stop => break,
                Event::Rescan => {
                    self.manager.reloading();
                    // Mistakes were logged, and what was in effect stays.
                    let _ = self.reload().await;
                    self.failed.clear();
                    self.rescan().await;
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
                    self.rescan().await;
                    next_poll = Instant::now();
                    let _ = reply.send(Ok(()));
                }
                Event::PollDue => {
                    self.rescan().await;
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
                    keeping.get_or_insert_with(|| self.keep_alive(round));
                }
                Event::KeepAliveDue => {
                    (round, next_round) = (Round::All, None);
                    keeping = Some(self.keep_alive(round));
                    continue;
                }
                Event::KeptAlive(kept) => {
                    keeping = None;
                    let pause = self.kept_alive(kept);
                    if round == Round::All {
                        next_round = Some(Instant::now() + pause);
                        round = Round::Due;
                    }
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
                    self.make_room(&paused).await;
                    continue;
                }
                Event::Scrub(event) => {
                    let settings = scrub::Settings::from(&self.live.config().scrub);
                    self.scrubs.take(event, settings, &self.seeding).await;
                    continue;
                }
                Event::CheckDue => {
                    checking = Some(self.check_files());
                    continue;
                }
                Event::Checked(checked) => {
                    checking = None;
                    next_check = Instant::now() + CHECK_EVERY;
                    if !self.take_checked(checked).await {
                        continue;
                    }
                }
                Event::StoreDue => {
                    self.store_retry = None;
                    self.failed.clear();
                    self.rescan().await;
                }
                Event::RoomDue => {
                    self.room = None;
                    self.reporter.problem(DISK_FULL, "", None);
                    self.failed.clear();
                    self.rescan().await;
                }
            }
            self.act().await;
        }
        drop(watchdog);
        // Who connects from now on is the next run's.
        self.network.session().stop_accepting();
        self.manager.stopping();
        self.reporter.enter(Some(ServicePhase::Stopping));
        self.report(None);
        self.stop_verifying().await;
        while let Some(fetching) = self.fetching.pop() {
            self.abandon(fetching).await;
        }
        self.scrubs.stop_all().await;
        for torrent in std::mem::take(&mut self.seeding).into_values() {
            self.take_out(torrent).await;
        }
        self.count_given();
        self.quota.save(unix_seconds(SystemTime::now()));
        Ok(())
    }

    /// Counts uploads against the limit of a month. Returns how much more may be uploaded.
    fn count_given(&mut self) -> Allowance {
        let limit = self.live.config().limits.monthly_upload;
        let limit = limit.value().map(Size::get);
        let now = unix_seconds(SystemTime::now());
        self.quota.take(self.reporter.uploaded(), limit, now)
    }

    /// Tells those who watch how it stands.
    fn report(&mut self, next_poll: Option<Instant>) {
        let allowance = self.count_given();
        self.network.allow(allowance);
        let config = self.live.config();
        let poll_interval = config.poll_interval.get();
        let following: Vec<FollowedState<'_>> = self
            .streams
            .iter()
            .map(|followed| FollowedState {
                stream: &followed.stream,
                desired: followed.desired,
                active: followed.active,
                refused: followed.refused,
                // A link that cannot be read is a problem that acting on it reports.
                current: self.data.current_of(&followed.stream.name).unwrap_or(None),
                poll_interval,
                next_lookup: next_poll.map(|at| at.saturating_duration_since(Instant::now())),
            })
            .collect();
        let (before, report) =
            self.reporter
                .publish(self.network, self.display, &following, self.quota.report());
        self.manager.status(&report.line());
        for event in events::between(&before, &report) {
            event.log();
            self.hooks.tell(event);
        }
    }

    /// Whether some stream is to have this snapshot.
    fn wants(&self, id: InfoHashV2) -> bool {
        self.streams.iter().any(|one| one.desired == Some(id))
    }

    /// Carries out decisions for every stream until there is nothing to do but wait.
    async fn act(&mut self) {
        let mut settled = false;
        for index in 0..self.streams.len() {
            let acted = self.act_for(index).await;
            let Some(followed) = self.streams.get(index) else {
                continue;
            };
            let name = followed.stream.name.clone();
            // One stream that cannot go on does not keep the others.
            let acted = self.unless_store_fails(name.as_str(), acted);
            settled |= acted.unwrap_or(false);
        }
        if settled {
            self.retire().await;
        }
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
            if let Some(followed) = self.streams.get_mut(index) {
                followed.refused = refused;
            }
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
                    Err(error) if is_out_of_space(error.as_ref()) => {
                        self.lacks_room(&error, "the new snapshot is whole and not yet current");
                        return Ok(false);
                    }
                    other => other?,
                },
                Decision::Abandon(snapshot) => {
                    info!(stream, %snapshot, "giving up: the pointer names another one now");
                    self.set_active(index, None);
                    self.let_go(snapshot).await;
                    self.remove_unfinished().await?;
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

    /// Makes a whole snapshot the current one.
    fn switch(&self, stream: &StreamName, id: InfoHashV2) -> Result<()> {
        let before = self.data.current_of(stream)?;
        self.data.switch(stream, id, &self.data.lock()?)?;
        info!(snapshot = %id, stream = stream.as_str(), "now current");
        let claims = |id| SnapshotInfo::parse(self.data.snapshot(id).read_info().ok()?.snapshot()?);
        if let Some((now, before)) = claims(id).zip(before.and_then(claims))
            && let Some(fewer) = now.shrank_from(&before)
        {
            warn!(
                snapshot = %id, stream = stream.as_str(),
                "an authority published a ledger that has fallen behind: it has {fewer}"
            );
        }
        Ok(())
    }
}

/// The end of what runs in `slot`; never, when nothing does.
async fn running<T>(slot: &mut Option<Running<'_, T>>) -> T {
    match slot {
        Some(task) => task.await,
        None => pending().await,
    }
}

async fn due(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

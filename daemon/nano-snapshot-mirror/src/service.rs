//! The mirror itself, which runs without a sub-command: follows the pointers, downloads the snapshots that they name, and seeds them.
//!
//! The loop waits for an event ([`events`]), handles it, and then lets [`reconcile`] decide for every stream
//! what to do ([`actions`]). The parts it is made of keep their own state: [`lookups`], [`downloads`],
//! [`ledgers`], [`stored`] and [`problems`].

mod actions;
mod downloads;
mod events;
mod followed;
mod heartbeats;
mod ledgers;
mod lookups;
mod problems;
mod reconcile;
pub(crate) mod scrub;
mod stored;
mod streams;

use std::future::{Future, pending};
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use file_kit::recorded_time::unix_seconds;
use service_kit::signals::Signals;
use service_kit::systemd::{InheritedSockets, Notifier, SocketNames};
use snapshot_store::DataDir;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use crate::api::control::{self, Requests};
use crate::api::listeners::Listeners;
use crate::config::{Live, Size};
use crate::ledger::policy::LedgerPolicy;
use crate::observe::events as notices;
use crate::observe::hooks::Hooks;
use crate::observe::report::{FollowedState, Reporter, ServicePhase};
use crate::progress::ProgressDisplay;
use crate::transfer::network::{Network, Role};
use crate::transfer::quota::{Allowance, Quota};

use downloads::Downloads;
use events::Next;
use followed::FollowedStream;
use heartbeats::Heartbeats;
use ledgers::LedgerChecks;
use lookups::Lookups;
use problems::Problems;
use stored::StoredSnapshots;

/// The longest time that a poll may take. Its look-ups end by themselves long before.
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
        .map(|(name, stream)| FollowedStream::open(name, stream, &data))
        .collect::<Result<Vec<_>>>()?;
    let cleaned = data.clean_incoming()?;
    if cleaned > 0 {
        info!(
            cleaned,
            "removed what an interrupted command left in incoming/"
        );
    }
    let mut inherited = InheritedSockets::take(&SOCKETS)?;
    let listeners = Listeners::open(&config, &data, &mut inherited)?;
    let network = Network::start(live, &data, Role::Mirror(inherited.take_tcp("peer"))).await?;
    let (requests_to, requests) = control::requests();
    let life = Heartbeats::new();
    let reporter = Reporter::start(
        &network,
        data.root().to_owned(),
        listeners.addresses(&network),
        life.dht.clone(),
    );
    let servers = listeners.serve(&reporter.watching(), &requests_to, &data, network.dht());
    let hooks = Hooks::start(live.subscribe(), data.root().to_owned());
    let names: Vec<&str> = config.stream.iter().map(|(name, _)| name).collect();
    info!(
        data_dir = %data.root().display(), streams = names.join(","),
        poll_interval = ?config.poll_interval.get(), "mirroring"
    );
    let policy = LedgerPolicy::from(&config.verify);
    let mut service = Service {
        network: &network,
        data: &data,
        live,
        display,
        streams,
        lookups: Lookups::new(&network),
        downloads: Downloads::new(&network, &data, policy.clone(), display),
        ledger_checks: LedgerChecks::new(policy.clone(), display),
        stored: StoredSnapshots::new(
            &network,
            &data,
            policy,
            scrub::Settings::from(&config.scrub),
            life.mirror.clone(),
        ),
        problems: Problems::new(reporter),
        requests,
        life,
        manager,
        hooks: &hooks,
        quota: Quota::open(&data, unix_seconds(SystemTime::now())),
    };
    let served = service.serve(signals).await;
    let reporter = service.into_reporter();
    servers.close().await;
    hooks.close().await;
    reporter.end().await;
    network.close(&data).await;
    info!("stopped");
    served
}

/// A task that the service polls itself.
type Running<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

struct Service<'a> {
    network: &'a Network,
    data: &'a DataDir,
    live: &'a Live,
    display: &'a ProgressDisplay,
    streams: Vec<FollowedStream>,
    lookups: Lookups<'a>,
    downloads: Downloads<'a>,
    ledger_checks: LedgerChecks<'a>,
    stored: StoredSnapshots<'a>,
    problems: Problems,
    requests: Requests,
    life: Heartbeats,
    manager: Notifier,
    hooks: &'a Hooks,
    quota: Quota,
}

impl Service<'_> {
    /// Drops everything but the reporter, which the servers still watch.
    fn into_reporter(self) -> Reporter {
        self.problems.into_reporter()
    }

    /// Serves until asked to stop, then shuts down.
    async fn serve(&mut self, signals: &Signals) -> Result<()> {
        for followed in &mut self.streams {
            followed.recall(self.problems.reporter());
        }
        self.log_foreign_links();
        self.rescan().await;
        self.act().await;
        // Peers that connected since the last run ended are served from here on.
        self.network.session().start_accepting();
        self.lookups.poll_soon();
        self.problems.reporter().enter(None);
        self.manager.ready();
        let watchdog = self.life.watch(self.network.session());
        loop {
            self.life.mirror.beat();
            self.report(self.lookups.next_poll());
            let event = self.next_event(signals).await;
            match self.handle(event).await {
                Next::Act => self.act().await,
                Next::Skip => {}
                Next::Stop => break,
            }
        }
        drop(watchdog);
        self.shut_down().await;
        Ok(())
    }

    async fn shut_down(&mut self) {
        // Peers that connect from now on wait for the next run.
        self.network.session().stop_accepting();
        self.manager.stopping();
        self.problems.reporter().enter(Some(ServicePhase::Stopping));
        self.report(None);
        self.ledger_checks.stop().await;
        let downloads: Vec<_> = self.downloads.ids().collect();
        for id in downloads {
            self.stop_download(id).await;
        }
        self.stored.remove_all(&mut self.problems).await;
        self.count_uploads();
        self.quota.save(unix_seconds(SystemTime::now()));
    }

    /// Counts uploads against the monthly limit. Returns how much more may be uploaded.
    fn count_uploads(&mut self) -> Allowance {
        let limit = self.live.config().limits.monthly_upload;
        let limit = limit.value().map(Size::get);
        let now = unix_seconds(SystemTime::now());
        self.quota
            .take(self.problems.reporter().uploaded(), limit, now)
    }

    /// Publishes a report and the events since the last one.
    fn report(&mut self, next_poll: Option<Instant>) {
        let allowance = self.count_uploads();
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
                // A link that cannot be read is reported when the service acts on it.
                current: self.data.current_of(&followed.stream.name).unwrap_or(None),
                poll_interval,
                next_lookup: next_poll.map(|at| at.saturating_duration_since(Instant::now())),
            })
            .collect();
        let (before, report) = self.problems.reporter().publish(
            self.network,
            self.display,
            &following,
            self.quota.report(),
        );
        self.manager.status(&report.line());
        for event in notices::between(&before, &report) {
            event.log();
            self.hooks.tell(event);
        }
    }
}

/// Waits for the end of what runs in `slot`; for ever if nothing does.
async fn running<T>(slot: &mut Option<Running<'_, T>>) -> T {
    match slot {
        Some(task) => task.await,
        None => pending().await,
    }
}

/// Waits until `time`; for ever if there is none.
async fn due(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

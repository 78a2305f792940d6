//! Runs the command of the operator and posts to the webhook of the operator for each event. A separate task handles one event after the other, so that
//! the mirror never waits.

mod command;
mod webhook;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::observe::events::OperatorEvent;

/// Events in the queue, at most. Further events are only logged.
const WAITING: usize = 64;

/// The pause before the first retry; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// The task that runs hooks.
pub(crate) struct Hooks {
    queue: mpsc::Sender<OperatorEvent>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Hooks {
    /// Starts the task. It reads the configuration again for each event.
    pub(crate) fn start(config: watch::Receiver<Arc<Config>>, data_dir: PathBuf) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        let stop = CancellationToken::new();
        let teller = Teller {
            config,
            data_dir,
            stop: stop.clone(),
        };
        Self {
            queue,
            stop,
            task: tokio::spawn(teller.run(waiting)),
        }
    }

    /// Queues an event for the hooks.
    pub(crate) fn tell(&self, event: OperatorEvent) {
        if let Err(error) = self.queue.try_send(event) {
            warn!("dropped an event for the hooks, {WAITING} others are queued: {error}");
        }
    }

    /// Stops the task and the hook that it runs.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        drop(self.queue);
        // A panic was printed when it happened.
        let _ = self.task.await;
    }
}

struct Teller {
    config: watch::Receiver<Arc<Config>>,
    data_dir: PathBuf,
    stop: CancellationToken,
}

impl Teller {
    async fn run(self, mut waiting: mpsc::Receiver<OperatorEvent>) {
        loop {
            let event = tokio::select! {
                () = self.stop.cancelled() => return,
                event = waiting.recv() => event,
            };
            let Some(event) = event else { return };
            let config = self.config.borrow().clone();
            // The type has text keys only, so this does not fail.
            let Ok(Value::Object(facts)) = serde_json::to_value(&event) else {
                continue;
            };
            let facts = self.with_paths(facts);
            let hooks = &config.hooks;
            let limit = hooks.timeout.get();
            if !hooks.command.words().is_empty() {
                let run = || command::run(hooks.command.words(), &facts, limit, &self.stop);
                self.until_done("command", hooks.retries.get(), run).await;
            }
            if let Some(webhook) = &hooks.webhook {
                let post = || webhook::post(webhook, &facts, limit, &self.stop);
                self.until_done("webhook", hooks.retries.get(), post).await;
            }
        }
    }

    /// Adds the paths of the data directory and of the snapshot.
    fn with_paths(
        &self,
        mut facts: serde_json::Map<String, Value>,
    ) -> serde_json::Map<String, Value> {
        facts.insert(
            "data_dir".to_owned(),
            self.data_dir.display().to_string().into(),
        );
        if facts.get("event").is_some_and(|event| event == "ready")
            && let Some(stream) = facts.get("stream").and_then(Value::as_str)
        {
            let path = self.data_dir.join("current").join(stream);
            facts.insert("path".to_owned(), path.display().to_string().into());
        }
        facts
    }

    /// Retries until an attempt succeeds, and logs the result.
    async fn until_done<F: Future<Output = anyhow::Result<()>>>(
        &self,
        what: &'static str,
        retries: u32,
        attempt: impl Fn() -> F,
    ) {
        let mut pause = FIRST_PAUSE;
        for tries in 1..=retries.saturating_add(1) {
            // Each attempt ends by itself, within its time.
            match attempt().await {
                Ok(()) => {
                    info!(hook = what, tries, "hook succeeded");
                    return;
                }
                Err(error) if tries > retries || self.stop.is_cancelled() => {
                    error!(hook = what, tries, "hook failed, giving up: {error:#}");
                    return;
                }
                Err(error) => warn!(
                    hook = what,
                    tries,
                    ?pause,
                    "hook failed, retrying: {error:#}"
                ),
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_failure_is_retried_as_often_as_configured() {
        let (_config, config) = watch::channel(Arc::new(Config::default()));
        let teller = Teller {
            config,
            data_dir: PathBuf::new(),
            stop: CancellationToken::new(),
        };
        // A hook that succeeds at the second attempt, and one that never does.
        for works in [2, u32::MAX] {
            let tries = Cell::new(0);
            let attempt = || {
                tries.set(tries.get() + 1);
                std::future::ready(match tries.get() {
                    tried if tried >= works => Ok(()),
                    _ => Err(anyhow::anyhow!("no")),
                })
            };
            teller.until_done("command", 1, attempt).await;
            assert_eq!(tries.get(), 2);
        }
        let tries = Cell::new(0);
        let attempt = || {
            tries.set(tries.get() + 1);
            std::future::ready(Ok(()))
        };
        teller.until_done("command", 1, attempt).await;
        assert_eq!(tries.get(), 1, "a success is not repeated");
    }
}

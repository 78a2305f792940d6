//! Tells programs of the operator what happened: a command, a webhook, or both; one after the other, in
//! a task of its own, so that none keeps the mirror waiting.

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

/// What may wait to be told; what comes beyond is logged alone.
const WAITING: usize = 64;

/// Pause before the second try; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// And at most so long.
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// The running hooks.
pub(crate) struct Hooks {
    queue: mpsc::Sender<OperatorEvent>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Hooks {
    /// Starts them. What is configured is looked up each time something happens.
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

    /// Has it told, soon.
    pub(crate) fn tell(&self, event: OperatorEvent) {
        if let Err(error) = self.queue.try_send(event) {
            warn!("hooks are not told, {WAITING} other things wait: {error}");
        }
    }

    /// Ends them; what runs is ended too.
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
            // Our own type has text keys only, so this does not fail.
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

    /// Adds where things are.
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

    /// Tries until it works, and says how it went.
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
                    info!(hook = what, tries, "told");
                    return;
                }
                Err(error) if tries > retries || self.stop.is_cancelled() => {
                    error!(hook = what, tries, "not told, giving up: {error:#}");
                    return;
                }
                Err(error) => warn!(
                    hook = what,
                    tries,
                    ?pause,
                    "not told, trying again: {error:#}"
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
    async fn what_fails_is_tried_again_so_often_and_no_more() {
        let (_config, config) = watch::channel(Arc::new(Config::default()));
        let teller = Teller {
            config,
            data_dir: PathBuf::new(),
            stop: CancellationToken::new(),
        };
        // Works the second time; never.
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
        assert_eq!(tries.get(), 1, "what was told is not told again");
    }
}

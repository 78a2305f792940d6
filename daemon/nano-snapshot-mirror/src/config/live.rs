//! The configuration of a running service, and how a reload changes it.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::Config;
use super::load::{Loaded, Mistakes, Sources};
use super::section::{Change, Part as _, Shown};

/// The configuration in effect, which may be replaced while the service runs.
#[derive(Debug)]
pub(crate) struct Live {
    sources: Sources,
    config: watch::Sender<Arc<Config>>,
}

/// The result of a reload: paths of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Reloaded {
    /// Keys whose new values are in effect.
    pub(crate) changed: Vec<String>,
    /// Keys whose new values take effect at the next start.
    pub(crate) at_restart: Vec<String>,
}

impl Live {
    /// Starts with the configuration that was loaded at the start.
    pub(crate) fn new(sources: Sources, loaded: &Loaded) -> Self {
        Self {
            sources,
            config: watch::Sender::new(Arc::new(loaded.config.clone())),
        }
    }

    /// Returns the configuration in effect.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.config.borrow().clone()
    }

    /// Returns a receiver of changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Config>> {
        self.config.subscribe()
    }

    /// Reads all sources again and takes over what can change in a running service.
    ///
    /// # Errors
    ///
    /// All mistakes. The configuration in effect does not change.
    pub(crate) fn reload(&self) -> Result<Reloaded, Mistakes> {
        let new = self.sources.load()?.config;
        let old = self.config();
        let mut reloaded = Reloaded::default();
        let table = Config::table();
        for path in differences(&old, &new) {
            match table.find(&path).map(|key| key.change) {
                Some(Change::Live) => reloaded.changed.push(path),
                _ => reloaded.at_restart.push(path),
            }
        }
        let mut config = Config::clone(&old);
        config.adopt(&new);
        self.config.send_replace(Arc::new(config));
        Ok(reloaded)
    }

    /// Reloads as [`Self::reload`] does, and logs the result.
    pub(crate) fn reload_and_log(&self) -> Result<Reloaded, Mistakes> {
        let reloaded = self.reload();
        match &reloaded {
            Ok(Reloaded {
                changed,
                at_restart,
            }) => {
                if changed.is_empty() && at_restart.is_empty() {
                    info!("reloaded the configuration: nothing has changed");
                }
                if !changed.is_empty() {
                    info!(
                        "reloaded the configuration, now in effect: {}",
                        changed.join(", ")
                    );
                }
                if !at_restart.is_empty() {
                    warn!("in effect after a restart only: {}", at_restart.join(", "));
                }
            }
            Err(mistakes) => {
                for line in mistakes.lines() {
                    error!("{line}");
                }
                error!("the configuration has mistakes; keeping the one in effect");
            }
        }
        reloaded
    }
}

/// Returns the paths of keys whose values differ, or that only one has.
fn differences(old: &Config, new: &Config) -> Vec<String> {
    let [old, new] = [old, new].map(|config| {
        let mut shown = Vec::new();
        config.show("", &mut shown);
        shown
    });
    let missing = |one: &[Shown], other: &[Shown]| -> Vec<String> {
        let only = one.iter().filter(|shown| !other.contains(shown));
        only.map(|shown| shown.path.clone()).collect()
    };
    let mut paths = missing(&new, &old);
    for path in missing(&old, &new) {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

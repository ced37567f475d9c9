//! All stores of a node.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use checkpoint::Disk;
use remote::{StoreConfig, StoreError, StoreRuntime};

use super::kept::{Access, Kept, LIMITS, no_threads};

/// Threads for requests of all stores together.
const THREADS: usize = 2;
/// Threads that read, hash and sync, for each of them: a folder that hangs gives some of its own back never.
const BLOCKING_THREADS: usize = 16;
/// Pause before a store that could not be used is asked again; each time twice as long, up to the longest.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// The stores that a node's configuration names.
#[derive(Debug, Default)]
pub struct Stores(BTreeMap<String, Arc<Kept>>);

impl Stores {
    /// Opens all of them; sends nothing. Journals of uploads lie below `data_dir`. Without stores there are no threads.
    ///
    /// # Errors
    /// `Configuration`; `Disk`: the journals, or the system gives no threads.
    pub fn open(
        configs: &[StoreConfig],
        disk: &Arc<dyn Disk>,
        data_dir: &Path,
    ) -> Result<Stores, StoreError> {
        if configs.is_empty() {
            return Ok(Stores::default());
        }
        let runtime = StoreRuntime::new(THREADS, BLOCKING_THREADS * configs.len());
        let runtime = Arc::new(runtime.map_err(|error| no_threads(&error))?);
        let open = |config: &StoreConfig| -> Result<(String, Arc<Kept>), StoreError> {
            config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
            let store = remote::Store::open(config, LIMITS)?;
            let kept = Kept::new(store, Arc::clone(&runtime), Arc::clone(disk), data_dir)?;
            kept.set_skip(config.skip_access_check());
            Ok((config.name().to_owned(), Arc::new(kept)))
        };
        configs.iter().map(open).collect::<Result<_, _>>().map(Stores)
    }

    /// The store of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Kept>> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Kept>> {
        self.0.values()
    }

    /// Asks each store, in the background, whether this node may do there what it will have to, until it may.
    pub fn ask_all(&self) {
        for kept in self.all().filter(|kept| !kept.skips()) {
            tokio::spawn(ask_until_usable(Arc::clone(kept)));
        }
    }
}

async fn ask_until_usable(kept: Arc<Kept>) {
    let mut pause = PAUSE_MIN;
    loop {
        let store = kept.store().clone();
        let asked = kept.run(async move { store.check_access().await }).await;
        match asked {
            Ok(()) => {
                tracing::info!(store = kept.name(), "the object store can be used");
                return kept.says(Access::Usable);
            }
            Err(error) => {
                tracing::warn!(store = kept.name(), %error, "the object store cannot be used now; it is asked again");
                kept.says(Access::Unusable(error.to_string()));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

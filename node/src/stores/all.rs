//! All stores of a node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use checkpoint::Disk;
use nativelog::background::{self, UPKEEP};
use nativelog::ledger::StoreInfo;
use nativelog::machine::Machine;
use remote::{StoreConfig, StoreError, StoreRuntime, Trouble};
use uuid::Uuid;

use super::kept::{Access, Kept, LIMITS, NotIt, no_threads};

/// Threads for requests of all stores together.
const THREADS: usize = 2;
/// Threads that read, hash and sync, for each of them: a folder that hangs gives some of its own back never.
const BLOCKING_THREADS: usize = 16;
/// Pause before a store that could not be used is asked again; each time twice as long, up to the longest.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// How often the marker of one that can be used is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The stores that a node's configuration names.
#[derive(Debug, Default)]
pub struct Stores {
    slots: BTreeMap<String, Slot>,
    /// None without stores.
    opener: Option<Opener>,
}

/// A store of the configuration.
#[derive(Debug)]
struct Slot {
    config: StoreConfig,
    /// Empty while what it takes to open it is away: a folder that is not mounted, a file of credentials.
    kept: OnceLock<Arc<Kept>>,
    /// Why it could not be opened.
    why: Mutex<String>,
}

/// What all of them are opened with.
#[derive(Debug)]
struct Opener {
    runtime: Arc<StoreRuntime>,
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
}

impl Opener {
    fn open(&self, config: &StoreConfig) -> Result<Arc<Kept>, StoreError> {
        let store = remote::Store::open(config, LIMITS)?;
        let kept = Kept::new(store, Arc::clone(&self.runtime), Arc::clone(&self.disk), &self.data_dir)?;
        kept.set_skip(config.skip_access_check());
        Ok(Arc::new(kept))
    }
}

impl Stores {
    /// Opens all of them; sends nothing. Journals of uploads lie below `data_dir`. Without stores there are no threads. One
    /// whose folder or file of credentials is away is opened later ([`Stores::ask_all`]); nothing else waits for it.
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
        let opener = Opener { runtime, disk: Arc::clone(disk), data_dir: data_dir.to_owned() };
        let mut slots = BTreeMap::new();
        for config in configs {
            config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
            let slot = Slot { config: config.clone(), kept: OnceLock::new(), why: Mutex::default() };
            match slot.open(&opener) {
                Err(error) if error.trouble() == Trouble::Away => {
                    tracing::warn!(store = config.name(), %error, "the node starts without this object store");
                }
                opened => opened?,
            }
            slots.insert(config.name().to_owned(), slot);
        }
        Ok(Stores { slots, opener: Some(opener) })
    }

    /// The store of this name, when it is open.
    pub fn get(&self, name: &str) -> Option<&Arc<Kept>> {
        self.slots.get(name)?.kept.get()
    }

    /// All that are open, by name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Kept>> {
        self.slots.values().filter_map(|slot| slot.kept.get())
    }

    /// Those that could not be opened yet, and why.
    pub fn away(&self) -> impl Iterator<Item = (&str, String)> {
        let away = self.slots.iter().filter(|(_, slot)| slot.kept.get().is_none());
        away.map(|(name, slot)| (name.as_str(), slot.why()))
    }

    /// Why the store of this name cannot be used, when that is so.
    pub fn why_away(&self, name: &str) -> Option<String> {
        match self.slots.get(name) {
            None => Some(format!("this node's configuration has no [disk.{name}]")),
            Some(slot) => slot.kept.get().is_none().then(|| slot.why()),
        }
    }

    /// Opens the store of this name, if it is not open yet. Blocks.
    fn open_late(&self, name: &str) {
        if let (Some(slot), Some(opener)) = (self.slots.get(name), &self.opener)
            && slot.open(opener).is_ok()
        {
            tracing::info!(store = name, "the object store is there now");
        }
    }

    /// In the background: opens what could not be opened yet, asks each store whether this node may do there what it will
    /// have to, until it may, and looks from then on whether its prefix is still the one that the log of `machine` knows.
    pub fn ask_all(self: &Arc<Stores>, machine: &Arc<Machine>) {
        for name in self.slots.keys() {
            tokio::spawn(watch(Arc::clone(self), Arc::clone(machine), name.clone()));
        }
    }
}

impl Slot {
    fn open(&self, opener: &Opener) -> Result<(), StoreError> {
        if self.kept.get().is_some() {
            return Ok(());
        }
        match opener.open(&self.config) {
            Ok(kept) => drop(self.kept.set(kept)),
            Err(error) => {
                *self.why.lock().unwrap_or_else(PoisonError::into_inner) = error.to_string();
                return Err(error);
            }
        }
        Ok(())
    }

    fn why(&self) -> String {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn watch(stores: Arc<Stores>, machine: Arc<Machine>, name: String) {
    let mut pause = PAUSE_MIN;
    let kept = loop {
        if let Some(kept) = stores.get(&name) {
            break Arc::clone(kept);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
        let (again, of) = (Arc::clone(&stores), name.clone());
        background::run("open-store", UPKEEP, move || again.open_late(&of)).await;
    };
    if !kept.skips() {
        ask(kept, machine).await;
    }
}

async fn ask(kept: Arc<Kept>, machine: Arc<Machine>) {
    let (mut pause, mut is_checked) = (PAUSE_MIN, false);
    loop {
        let (cluster, known) = {
            let ledger = machine.ledger();
            (ledger.cluster().map(Uuid::from_bytes), ledger.store_named(kept.name()))
        };
        let access = match asked(&kept, cluster, known.as_ref(), is_checked).await {
            Ok(()) => Access::Usable,
            Err(why) => Access::Unusable(why),
        };
        is_checked = access == Access::Usable;
        if access != kept.access() {
            match &access {
                Access::Unusable(why) => {
                    tracing::warn!(
                        store = kept.name(),
                        why,
                        "the object store cannot be used now; it is asked again"
                    );
                }
                _ => tracing::info!(store = kept.name(), "the object store can be used"),
            }
            kept.says(access);
        }
        if is_checked {
            pause = PAUSE_MIN;
            tokio::time::sleep(LOOK_EVERY).await;
        } else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Asks a store whether this node may do there what it will have to, unless it has, and whether its prefix is the one that
/// the log knows, or may become it; else why not.
async fn asked(
    kept: &Kept,
    cluster: Option<Uuid>,
    known: Option<&StoreInfo>,
    is_checked: bool,
) -> Result<(), String> {
    let store = kept.store().clone();
    if !is_checked {
        let checked = kept.run(async move { store.check_access().await }).await;
        checked.map_err(|error| error.to_string())?;
    }
    let looked = match (cluster, known) {
        (Some(cluster), Some(known)) => {
            kept.doubt().await;
            kept.look(cluster, known).await
        }
        (Some(cluster), None) => kept.unclaimed(cluster).await,
        (None, _) => Ok(()),
    };
    looked.map_err(|error| match error {
        NotIt::Another(why) => why,
        NotIt::Store(error) => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoint::RealDisk;
    use remote::Environment;
    use remote::testing::{Fault, Faults, Rule, ScriptedS3, Traits, When};

    fn config(text: &str) -> StoreConfig {
        StoreConfig::from_disk("main", &text.parse().unwrap(), &Environment::default()).unwrap()
    }

    #[test]
    fn a_node_starts_without_what_is_away_and_opens_it_when_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (dir.path().join("shared"), dir.path().join("credentials"));
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let credentials = format!("url = \"s3://bucket/p\"\nregion = \"x\"\ncredentials_file = {file:?}");
        for text in [format!("path = {folder:?}"), credentials] {
            let stores = Stores::open(&[config(&text)], &disk, dir.path()).unwrap();
            assert!(stores.get("main").is_none() && stores.all().next().is_none(), "{text}");
            assert!(!stores.why_away("main").unwrap().is_empty());
            assert_eq!(stores.away().map(|(name, _)| name).collect::<Vec<_>>(), ["main"]);
            stores.open_late("main");
            assert!(stores.get("main").is_none());
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&file, "[default]\naws_access_key_id = a\naws_secret_access_key = b\n").unwrap();
            stores.open_late("main");
            assert!(stores.get("main").is_some() && stores.away().next().is_none(), "{text}");
            assert_eq!((stores.why_away("main"), stores.why_away("other").is_some()), (None, true));
            std::fs::remove_dir(&folder).unwrap();
            std::fs::remove_file(&file).unwrap();
        }
        // What is wrong for good still stops a start.
        std::fs::write(&file, "[other]\n").unwrap();
        let wrong = format!("url = \"s3://bucket/p\"\nregion = \"x\"\ncredentials_file = {file:?}");
        let error = Stores::open(&[config(&wrong)], &disk, dir.path()).unwrap_err();
        assert_eq!(error.trouble(), Trouble::Configuration, "{error}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_can_be_used_that_does_all_and_whose_prefix_is_the_one_that_the_log_knows() {
        let (cluster, dir) = (Uuid::from_u128(9), tempfile::tempdir().unwrap());
        let (s3, faults) = (ScriptedS3::new(Traits::default()), Faults::new());
        let store = remote::testing::open(&ScriptedS3::config("p"), LIMITS, &s3, &faults).unwrap();
        let runtime = Arc::new(StoreRuntime::new(2, 8).unwrap());
        let kept = Kept::new(store, runtime, Arc::new(RealDisk), dir.path()).unwrap();
        // Of a cluster that has no log yet, and of a store that the log does not know.
        asked(&kept, None, None, false).await.unwrap();
        asked(&kept, Some(cluster), None, false).await.unwrap();
        let marker = kept.claim(cluster).await.unwrap();
        assert_eq!(kept.access(), Access::NotAsked, "one answer does not say that all can be done");
        let uuid = *marker.store.as_bytes();
        let known = StoreInfo { id: 5, name: "main".into(), uuid, batch: 0, before: Vec::new() };
        asked(&kept, Some(cluster), Some(&known), false).await.unwrap();
        let other = asked(&kept, Some(Uuid::from_u128(8)), None, true).await.unwrap_err();
        assert!(other.contains("belongs to cluster"), "{other}");
        // It was, a moment ago.
        let fault = Fault::Answer(403, "AccessDenied", None);
        faults.add(Rule { verb: None, skip: 0, times: 1 << 20, when: When::Before, fault });
        assert!(asked(&kept, Some(cluster), Some(&known), true).await.is_err());
        faults.clear();
        s3.lose("p/epochlog.json");
        let gone = asked(&kept, Some(cluster), Some(&known), true).await.unwrap_err();
        assert!(gone.contains("no marker"), "{gone}");
    }
}

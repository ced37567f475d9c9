//! What a plan calls its entries: the log names files of a pack by number.

use std::sync::Arc;

use checkpoint::plan::entries;
use checkpoint::{Manifest, PlanEntry, RelPath};

use crate::ledger::Page;
use crate::plans::Plans;
use crate::record::{Body, Kind};
use crate::store::LogStore;

/// Paths and modes of entries, from wherever they can be had.
pub enum Names {
    /// Pages of an open plan, ascending, each from some entry on.
    Pages(Vec<(u32, Arc<Vec<PlanEntry>>)>),
    /// The tree of a sealed epoch.
    Tree(Arc<Manifest>),
}

impl Names {
    /// As these pages say. `Err` says in words which of them is not here.
    pub fn of_pages(plans: &Plans, pages: &[Page]) -> Result<Names, String> {
        let entries = |page: &Page| Ok((page.first, plans.entries(page).map_err(|lost| lost.to_string())?));
        Ok(Names::Pages(pages.iter().map(entries).collect::<Result<_, String>>()?))
    }

    /// As the record of a whole epoch at `index` of the log says itself.
    pub fn of_whole(log: &LogStore, index: u64) -> Result<Names, String> {
        let entry = log.headers(index..index + 1).map_err(|error| error.to_string())?.pop();
        let Some(Body::Record(record)) = entry.map(|entry| entry.body) else {
            return Err(format!("no log entry {index}"));
        };
        let Some(Kind::Whole(whole)) = &record.header.kind else {
            return Err(format!("log entry {index} is no whole epoch"));
        };
        let entries = entries(&whole.entries).map(|read| match read {
            Ok(read) => Ok(read.entry.to_entry()),
            Err(error) => Err(error.to_string()),
        });
        Ok(Names::Pages(vec![(0, Arc::new(entries.collect::<Result<_, String>>()?))]))
    }

    /// Path and mode of an entry.
    pub fn get(&self, file: u32) -> Option<(&RelPath, u32)> {
        match self {
            Names::Pages(pages) => {
                let page = pages.partition_point(|(first, _)| *first <= file).checked_sub(1)?;
                let (first, entries) = &pages[page];
                let entry = entries.get((file - first) as usize)?;
                Some((&entry.path, entry.mode))
            }
            Names::Tree(manifest) => {
                let entry = manifest.entries.get(file as usize)?;
                Some((&entry.path, entry.mode))
            }
        }
    }
}

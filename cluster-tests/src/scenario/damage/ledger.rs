//! Damage of what the ledger is rebuilt from: the catalog and the snapshots.

use std::fs;
use std::path::PathBuf;

use super::site::{Site, copy, cut, flip, len};
use super::{Expect, Row};
use crate::scratch::remove_tree;
use crate::seed::Rng;
use crate::wal::snapshots;

/// The rows of catalog and snapshots.
pub const LEDGER: [Row; 12] = [
    Row { name: "catalog deleted", plant: catalog_deleted, expect: Expect::Heals },
    Row { name: "catalog truncated", plant: catalog_truncated, expect: Expect::Heals },
    Row { name: "catalog flipped", plant: catalog_flipped, expect: Expect::Heals },
    Row { name: "catalog of another node", plant: catalog_of_another, expect: Expect::Heals },
    Row { name: "catalog ahead of the log", plant: catalog_ahead, expect: Expect::Heals },
    Row { name: "catalog behind the snapshot", plant: catalog_behind, expect: Expect::Heals },
    Row { name: "newest snapshot flipped", plant: newest_flipped, expect: Expect::Heals },
    Row { name: "newest snapshot truncated", plant: newest_truncated, expect: Expect::Heals },
    Row { name: "newest snapshot empty", plant: newest_empty, expect: Expect::Heals },
    Row { name: "newest snapshot missing", plant: newest_missing, expect: Expect::Heals },
    Row { name: "all snapshots flipped", plant: all_flipped, expect: Expect::Repair("snapshot") },
    Row { name: "all snapshots missing", plant: all_missing, expect: Expect::Repair("snapshot") },
];

fn catalog(site: &Site) -> PathBuf {
    site.group("catalog")
}

fn catalog_deleted(site: &mut Site, _: &mut Rng) {
    site.end_gently();
    remove_tree(&catalog(site)).expect("our own folder goes");
}

/// Sled's one large file.
fn database(site: &Site) -> PathBuf {
    let files =
        fs::read_dir(catalog(site)).expect("a node has a catalog").flatten().map(|entry| entry.path());
    files.filter(|path| path.is_file()).max_by_key(|path| len(path)).expect("a catalog has a file")
}

fn catalog_truncated(site: &mut Site, _: &mut Rng) {
    site.end_gently();
    let database = database(site);
    cut(&database, len(&database) / 3);
}

fn catalog_flipped(site: &mut Site, rng: &mut Rng) {
    site.end_gently();
    let database = database(site);
    flip(&database, 0..len(&database), 200, rng);
}

fn catalog_of_another(site: &mut Site, _: &mut Rng) {
    let other = site.cluster.first(site.victim)[1];
    site.cluster.wait_alike();
    site.end_gently();
    site.cluster.terminate(other);
    remove_tree(&catalog(site)).expect("our own folder goes");
    copy(&site.cluster.node(other).data.join("groups/main/catalog"), &catalog(site));
    site.cluster.restart(other);
    site.cluster.wait_node_ready(other);
}

/// The log of an earlier time under a catalog that knows more. A node whose disk goes back in time may forget what it
/// acknowledged, so all nodes are started anew: nobody counts on it any more.
fn catalog_ahead(site: &mut Site, rng: &mut Rng) {
    site.cluster.wait_alike();
    site.end_gently();
    site.copy_aside(&site.group("log"));
    site.start();
    site.commit(rng);
    site.cluster.wait_published(&site.commits.job, site.commits.epoch);
    site.cluster.wait_alike();
    for id in 1..=site.cluster.options.nodes {
        site.cluster.terminate(id);
    }
    site.put_back();
    for id in site.cluster.first(site.victim).split_off(1) {
        site.cluster.restart(id);
    }
    site.cluster.wait_ready();
}

fn catalog_behind(site: &mut Site, rng: &mut Rng) {
    site.end_gently();
    site.copy_aside(&catalog(site));
    site.start();
    site.purge(rng);
    site.end_gently();
    site.put_back();
}

/// Ends a node whose log was purged, gently too: nothing that it leaves then says more than its snapshots. These,
/// oldest first.
fn ended(site: &mut Site, rng: &mut Rng) -> Vec<PathBuf> {
    site.purge(rng);
    if rng.coin() {
        site.kill()
    } else {
        site.end_gently()
    }
    let found: Vec<PathBuf> = snapshots(site.node()).into_iter().map(|(_, path)| path).collect();
    assert!(found.len() >= 2, "two snapshots are kept: {found:?}");
    found
}

fn newest(site: &mut Site, rng: &mut Rng) -> PathBuf {
    ended(site, rng).pop().expect("there are two")
}

fn newest_flipped(site: &mut Site, rng: &mut Rng) {
    let newest = newest(site, rng);
    flip(&newest, 0..len(&newest), 1, rng);
}

fn newest_truncated(site: &mut Site, rng: &mut Rng) {
    let newest = newest(site, rng);
    cut(&newest, rng.range(1, len(&newest)));
}

fn newest_empty(site: &mut Site, rng: &mut Rng) {
    let newest = newest(site, rng);
    cut(&newest, 0);
}

fn newest_missing(site: &mut Site, rng: &mut Rng) {
    fs::remove_file(newest(site, rng)).expect("our own file goes");
}

fn all_flipped(site: &mut Site, rng: &mut Rng) {
    for snapshot in ended(site, rng) {
        flip(&snapshot, 0..len(&snapshot), 3, rng);
    }
}

fn all_missing(site: &mut Site, rng: &mut Rng) {
    for snapshot in ended(site, rng) {
        fs::remove_file(snapshot).expect("our own file goes");
    }
}

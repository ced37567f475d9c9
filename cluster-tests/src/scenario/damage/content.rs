//! Damage of content: staged files of an upload, blobs, published trees.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::site::{Site, copy, cut, flip, len};
use super::{Expect, Row};
use crate::scratch::remove_tree;
use crate::seed::Rng;

/// The rows of content.
pub const CONTENT: [Row; 14] = [
    Row { name: "staged file flipped", plant: staged_flipped, expect: Expect::Verify },
    Row { name: "staged file truncated", plant: staged_truncated, expect: Expect::Heals },
    Row { name: "staged file missing", plant: staged_missing, expect: Expect::Heals },
    Row { name: "staged file flipped after a kill", plant: staged_unsure, expect: Expect::RepairOrVerify },
    Row { name: "blob flipped", plant: blob_flipped, expect: Expect::Verify },
    Row { name: "blob truncated", plant: blob_truncated, expect: Expect::Verify },
    Row { name: "blob missing", plant: blob_missing, expect: Expect::Verify },
    Row { name: "blob flipped while the node was down", plant: blob_flipped_down, expect: Expect::Verify },
    Row { name: "blob missing and its file, too", plant: blob_and_file_missing, expect: Expect::Verify },
    Row { name: "published file flipped, its blob good", plant: file_flipped, expect: Expect::Verify },
    Row { name: "published file missing", plant: file_missing, expect: Expect::Verify },
    Row { name: "published directory missing", plant: epoch_missing, expect: Expect::Heals },
    Row { name: "manifest flipped", plant: manifest_flipped, expect: Expect::Verify },
    Row { name: "manifest missing", plant: manifest_missing, expect: Expect::Verify },
];

/// A staged file of a stopped upload on the node, which was ended gently: all of it is durable for certain.
fn staged(site: &mut Site, rng: &mut Rng) -> PathBuf {
    let attempt = site.upload_half(rng);
    site.end_gently();
    largest(&attempt)
}

fn largest(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder).expect("an attempt has a folder").flatten().map(|entry| entry.path());
    let staged = files.filter(|path| path.is_file()).max_by_key(|path| len(path));
    staged.expect("something is staged")
}

fn staged_flipped(site: &mut Site, rng: &mut Rng) {
    let file = staged(site, rng);
    flip(&file, 0..1 << 20, 1, rng);
}

fn staged_truncated(site: &mut Site, rng: &mut Rng) {
    let file = staged(site, rng);
    cut(&file, rng.range(0, 1 << 20));
}

fn staged_missing(site: &mut Site, rng: &mut Rng) {
    fs::remove_file(staged(site, rng)).expect("our own file goes");
}

fn staged_unsure(site: &mut Site, rng: &mut Rng) {
    let attempt = site.upload_half(rng);
    site.kill();
    let file = largest(&attempt);
    flip(&file, 0..len(&file), 1, rng);
}

/// The large file of the newest epoch as it is published, and its blob.
fn published(site: &Site) -> (PathBuf, PathBuf) {
    let file = site.node().published(&site.commits.job, site.damaged_epoch).join("large");
    let inode = fs::metadata(&file).expect("it is published").ino();
    let shelves = fs::read_dir(site.group("blobs")).expect("there are blobs").flatten();
    let mut blobs = shelves.flat_map(|shelf| fs::read_dir(shelf.path()).into_iter().flatten().flatten());
    let blob = blobs.find(|blob| blob.metadata().is_ok_and(|meta| meta.ino() == inode));
    (file, blob.expect("a published file has a blob").path())
}

fn blob_flipped(site: &mut Site, rng: &mut Rng) {
    let (_, blob) = published(site);
    flip(&blob, 0..len(&blob), 1, rng);
}

fn blob_truncated(site: &mut Site, rng: &mut Rng) {
    let (_, blob) = published(site);
    cut(&blob, rng.range(0, len(&blob)));
}

fn blob_missing(site: &mut Site, _: &mut Rng) {
    fs::remove_file(published(site).1).expect("our own file goes");
}

/// Ended gently, because the log's last payloads lie in the same inodes: see `staged file flipped after a kill`.
fn blob_flipped_down(site: &mut Site, rng: &mut Rng) {
    let (_, blob) = published(site);
    site.end_gently();
    flip(&blob, 0..len(&blob), 1, rng);
}

fn blob_and_file_missing(site: &mut Site, _: &mut Rng) {
    let (file, blob) = published(site);
    fs::remove_file(blob).and_then(|()| fs::remove_file(file)).expect("our own files go");
}

/// A rotten copy in place of the link: the blob stays good.
fn file_flipped(site: &mut Site, rng: &mut Rng) {
    let (file, _) = published(site);
    let rotten = file.with_extension("rotten");
    copy(&file, &rotten);
    flip(&rotten, 0..len(&rotten), 1, rng);
    fs::rename(&rotten, &file).expect("our own file is replaced");
}

fn file_missing(site: &mut Site, _: &mut Rng) {
    fs::remove_file(published(site).0).expect("our own file goes");
}

fn epoch(site: &Site) -> PathBuf {
    site.node().data.join(format!("epochs/{}/{}", site.commits.job, site.damaged_epoch))
}

fn epoch_missing(site: &mut Site, _: &mut Rng) {
    site.kill();
    remove_tree(&epoch(site)).expect("our own folder goes");
}

fn manifest_flipped(site: &mut Site, rng: &mut Rng) {
    let manifest = epoch(site).join("manifest");
    flip(&manifest, 0..len(&manifest), 1, rng);
}

fn manifest_missing(site: &mut Site, _: &mut Rng) {
    fs::remove_file(epoch(site).join("manifest")).expect("our own file goes");
}

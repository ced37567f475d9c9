//! Restores into file systems that were mounted for them, as a volume of a container or a scratch disk is.

use std::fs;
use std::path::Path;

use crate::cluster::{Cluster, Options};
use crate::disks::{Kind, Overlay, SmallDisk};
use crate::inputs::random_directory;
use crate::needs::{Need, skip};
use crate::seed::Rng;
use crate::walk::compare;

const DISK_BYTES: u64 = 64 << 20;

/// An empty mount point is a target; with `--force` it is one again. What `mkfs` made and what others put there stays,
/// and a full one is left as it was.
///
/// # Panics
/// When something else was restored, removed or left.
pub fn mount_points(kind: Kind, rng: &mut Rng) {
    let cluster = Cluster::start("restore-into", Options { nodes: 1, ..Options::default() });
    let at = cluster.folder().join("mounted");
    let disk = match SmallDisk::mount(kind, &at, DISK_BYTES) {
        Ok(disk) => disk,
        Err(why) => return skip(Need::Mounts, "restores into a mount point", &why),
    };
    let source = cluster.source("volume");
    random_directory(&source, 10, 1 << 20, rng);
    cluster.commit(&[1], &source, "volume", 1, &["--wait", "all"]).ok();
    if kind == Kind::LoopExt4 {
        fs::create_dir(at.join("lost+found")).expect("the mounted disk can be written");
    }
    let restore = |more: &[&str]| {
        let to = at.to_string_lossy().into_owned();
        cluster.cli(&[&["restore", "volume@1", "--to", to.as_str()][..], more].concat())
    };
    restore(&[]).ok();
    is_restored(&source, &at, kind);
    restore(&[]).refused(1, "Refused");
    restore(&["--force"]).ok();
    is_restored(&source, &at, kind);
    fs::write(at.join("mine"), b"precious").expect("the mounted disk can be written");
    restore(&["--force"]).refused(1, "Refused");
    assert_eq!(fs::read(at.join("mine")).ok().as_deref(), Some(&b"precious"[..]));
    fs::remove_file(at.join("mine")).expect("the mounted disk can be written");
    // No room for a second copy beside the first: the first stays, and nothing else.
    let full = disk.fill();
    restore(&["--force", "--delete-others"]).refused(9, "NoSpace");
    full.remove();
    is_restored(&source, &at, kind);
}

/// A file system that is mounted somewhere below a target is never entered to remove what is in it.
///
/// # Panics
/// When it was.
pub fn mounted_below(rng: &mut Rng) {
    let cluster = Cluster::start("restore-over", Options { nodes: 1, ..Options::default() });
    let source = cluster.source("over");
    random_directory(&source, 3, 1 << 10, rng);
    cluster.commit(&[1], &source, "over", 1, &["--wait", "all"]).ok();
    let target = cluster.restore(1, "over@1");
    let below = target.join("a/volume");
    let disk = match SmallDisk::mount(Kind::Tmpfs, &below, DISK_BYTES) {
        Ok(disk) => disk,
        Err(why) => return skip(Need::Mounts, "a mount below a target", &why),
    };
    fs::write(below.join("mine"), b"precious").expect("the mounted disk can be written");
    let to = target.to_string_lossy().into_owned();
    let args = ["restore", "over@1", "--to", to.as_str(), "--force", "--delete-others"];
    let output = cluster.cli(&args).refused(1, "Refused");
    assert!(output.to_string().contains("mounted"), "{output}");
    assert_eq!(fs::read(below.join("mine")).ok().as_deref(), Some(&b"precious"[..]));
    drop(disk);
    cluster.cli(&args).ok();
    compare(&source, &target).unwrap_or_else(|difference| panic!("restored over a mount: {difference}"));
}

/// What lies in the lower layer of an overlay cannot be renamed: a restore over it is refused before anything is fetched,
/// and one over what lies in the upper layer is as any other.
///
/// # Panics
/// When something else was said, restored or left.
pub fn layers(rng: &mut Rng) {
    let cluster = Cluster::start("restore-layers", Options { nodes: 1, ..Options::default() });
    let source = cluster.source("layers");
    random_directory(&source, 5, 1 << 10, rng);
    cluster.commit(&[1], &source, "layers", 1, &["--wait", "all"]).ok();
    let restore = |to: &Path, more: &[&str]| {
        let to = to.to_string_lossy().into_owned();
        cluster.cli(&[&["restore", "layers@1", "--to", to.as_str()][..], more].concat())
    };
    // Not every file system may be an upper layer: this one may.
    let at = cluster.folder().join("layers");
    let _disk = match SmallDisk::mount(Kind::Tmpfs, &at, DISK_BYTES) {
        Ok(disk) => disk,
        Err(why) => return skip(Need::Mounts, "restores over the layers of an overlay", &why),
    };
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| at.join(name));
    restore(&lower.join("below"), &[]).ok();
    // Goes before the disk below it.
    let _overlay = match Overlay::mount(&lower, &upper, &work, &merged) {
        Ok(overlay) => overlay,
        Err(why) => return skip(Need::Mounts, "restores over the layers of an overlay", &why),
    };
    for more in [&["--force"][..], &["--force", "--delete-others"]] {
        let output = restore(&merged.join("below"), more).refused(1, "Refused");
        assert!(output.to_string().contains("in a lower layer of an overlay"), "{output}");
        compare(&source, &merged.join("below")).unwrap_or_else(|difference| panic!("changed: {difference}"));
        let left: Vec<_> = fs::read_dir(&merged).into_iter().flatten().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
    let above = merged.join("above");
    for more in [&[][..], &["--force"]] {
        restore(&above, more).ok();
        compare(&source, &above).unwrap_or_else(|difference| panic!("restored to a layer: {difference}"));
    }
}

// Nothing but the source, and what belongs to the file system.
fn is_restored(source: &Path, at: &Path, kind: Kind) {
    if kind == Kind::LoopExt4 {
        fs::remove_dir(at.join("lost+found")).expect("a restore leaves it alone");
    }
    compare(source, at).unwrap_or_else(|difference| panic!("restored to a {kind:?}: {difference}"));
    if kind == Kind::LoopExt4 {
        fs::create_dir(at.join("lost+found")).expect("the mounted disk can be written");
    }
}

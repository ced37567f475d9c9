//! Restores into a directory that stays, as into a mount point: as if every target were one.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::super::temp::Prefix;
use super::super::{LocalTree, digest_dir, verify_dir};
use super::*;
use crate::limits::Limits;

struct Site {
    temp: tempfile::TempDir,
    source: PathBuf,
    volume: PathBuf,
    manifest: Manifest,
}

fn site() -> Site {
    let temp = tempfile::tempdir().unwrap();
    let [source, volume] = ["source", "volume"].map(|name| temp.path().join(name));
    fs::create_dir_all(source.join("shut/inner")).unwrap();
    fs::create_dir(source.join("dir")).unwrap();
    fs::create_dir(&volume).unwrap();
    for (name, data) in [("a", "one"), ("dir/b", "two"), ("shut/inner/c", "three")] {
        fs::write(source.join(name), data).unwrap();
    }
    fs::set_permissions(source.join("shut"), fs::Permissions::from_mode(0o555)).unwrap();
    let manifest = digest_dir(&source, &Limits::default()).unwrap();
    Site { temp, source, volume, manifest }
}

impl Site {
    fn restore(&self, options: &RestoreOptions, progress: &dyn Fn(u64)) -> Result<Restored, RestoreError> {
        let mut place = look(&self.volume, options, self.manifest.entries[0].mode)?;
        place.how = How::Inside(File::open(&self.volume).unwrap().into());
        place.prefix = Prefix::inside();
        let chosen = choose(&self.manifest, options)?;
        write(&place, &self.manifest, &chosen, options, &mut LocalTree::new(&self.source), progress)
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(&self.volume).unwrap();
        let mut names: Vec<_> = names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        crate::durable::remove_tree(&crate::RealDisk, self.temp.path()).unwrap();
    }
}

#[test]
fn a_directory_that_stays_is_filled_and_filled_again() {
    let site = site();
    let inode = || fs::metadata(&site.volume).unwrap().ino();
    let before = inode();
    // What a killed one left is swept.
    fs::create_dir_all(site.volume.join(".epochlog-tmp-0123456789abcdef/x")).unwrap();
    assert_eq!(site.restore(&RestoreOptions::default(), &|_| {}).unwrap().left, [] as [PathBuf; 0]);
    assert!(verify_dir(&site.volume, &site.manifest).unwrap().is_good());
    assert!(matches!(site.restore(&RestoreOptions::default(), &|_| {}), Err(RestoreError::Exists(_))));
    let force = RestoreOptions { force: true, ..RestoreOptions::default() };
    assert_eq!(site.restore(&force, &|_| {}).unwrap().left, [] as [PathBuf; 0]);
    assert!(verify_dir(&site.volume, &site.manifest).unwrap().is_good());
    assert_eq!(inode(), before);
    assert_eq!(site.names(), ["a", "dir", "shut"]);
    // What is put there meanwhile, by the name of an entry or any other, ends it; all is as it was.
    let late = site.volume.join("late");
    let result = site.restore(&force, &|_| fs::write(&late, b"mine").unwrap());
    assert!(matches!(result, Err(RestoreError::Others { .. })), "{result:?}");
    assert_eq!(site.names(), ["a", "dir", "late", "shut"]);
    fs::remove_file(&late).unwrap();
    assert!(verify_dir(&site.volume, &site.manifest).unwrap().is_good());
}

#[test]
fn what_has_the_name_of_an_entry_by_then_stays() {
    let site = site();
    let mine = site.volume.join("dir");
    let result = site.restore(&RestoreOptions::default(), &|_| fs::write(&mine, b"mine").unwrap());
    assert!(matches!(result, Err(RestoreError::Exists(_))), "{result:?}");
    assert_eq!((site.names(), fs::read(&mine).unwrap()), (vec!["dir".to_owned()], b"mine".to_vec()));
}

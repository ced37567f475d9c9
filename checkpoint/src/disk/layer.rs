//! Disks and files over others: who changes some of the verbs writes those alone, and the rest goes to what lies below.
//!
//! Verbs that are made of others (a new file or a whole one is opened, a directory is opened and synced) are made of the
//! layer's own, so that none goes around what it changes. What a file does in one call goes below in one call.

use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::path::Path;

use super::{Disk, DiskDir, DiskFile, FileKind, Open, Space, Stat, read_whole, write_whole};

/// A trait with all of these verbs, each handed below, and what makes whoever has it one that has the verbs.
macro_rules! layer {
    (
        $(#[$about:meta])*
        $Layer:ident over $Verbs:ident
        { $($verb:ident($($arg:ident: $type:ty),*) -> $answer:ty;)* }
        { $($made:ident($($part:ident: $of:ty),*) -> $gives:ty = $by:path;)* }
    ) => {
        $(#[$about])*
        #[allow(missing_docs, reason = "the verbs are those of the trait that it is over")]
        pub trait $Layer: Sized + Send + Sync + Debug + 'static {
            /// What lies below.
            fn below(&self) -> &dyn $Verbs;
            $(fn $verb(&self, $($arg: $type),*) -> io::Result<$answer> {
                self.below().$verb($($arg),*)
            })*
            $(fn $made(&self, $($part: $of),*) -> io::Result<$gives> {
                $by(self, $($part),*)
            })*
        }

        impl<L: $Layer> $Verbs for L {
            $(fn $verb(&self, $($arg: $type),*) -> io::Result<$answer> {
                $Layer::$verb(self, $($arg),*)
            })*
            $(fn $made(&self, $($part: $of),*) -> io::Result<$gives> {
                $Layer::$made(self, $($part),*)
            })*
        }
    };
}

layer! {
    /// A disk over another one. Write its path where it is implemented: where [`Disk`] is in scope too, no verb of a layer
    /// can be called by its name alone.
    DiskLayer over Disk
    {
        open(path: &Path, how: Open) -> Box<dyn DiskFile>;
        open_direct(path: &Path, how: Open) -> Box<dyn DiskFile>;
        create_dir(path: &Path) -> ();
        read_dir(path: &Path) -> Vec<(OsString, FileKind)>;
        stat(path: &Path) -> Stat;
        read_link(path: &Path) -> Vec<u8>;
        rename(from: &Path, to: &Path) -> ();
        link(from: &Path, to: &Path) -> ();
        symlink(target: &[u8], at: &Path) -> ();
        unlink(path: &Path) -> ();
        remove_dir(path: &Path) -> ();
        remove_tree(path: &Path) -> ();
        set_mode(path: &Path, mode: u32) -> ();
        clone_file(from: &Path, to: &Path) -> ();
        open_dir(path: &Path) -> Box<dyn DiskDir>;
        free(path: &Path) -> Space;
    }
    {
        write_new(path: &Path, data: &[u8], mode: u32) -> () = write_whole;
        read_file(path: &Path, bytes_max: u64) -> Vec<u8> = read_whole;
    }
}

layer! {
    /// An open file over another one; its path is written as that of [`DiskLayer`].
    FileLayer over DiskFile
    {
        read_at(buf: &mut [u8], offset: u64) -> usize;
        read_exact_at(buf: &mut [u8], offset: u64) -> ();
        write_at(data: &[u8], offset: u64) -> ();
        sync_data() -> ();
        sync_all() -> ();
        set_len(len: u64) -> ();
        len() -> u64;
        set_mode(mode: u32) -> ();
        allocate(offset: u64, len: u64) -> ();
        clear(offset: u64, len: u64) -> ();
        next_data(at: u64, end: u64) -> Option<(u64, u64)>;
        drop_cache() -> ();
    }
    {}
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::{Disk, DiskDir, DiskFile, Open, Path, io};
    use crate::testing::CrashDisk;

    /// Counts the files and folders that are opened.
    #[derive(Debug, Default)]
    struct Counting {
        below: CrashDisk,
        files: AtomicU32,
        dirs: AtomicU32,
    }

    impl super::DiskLayer for Counting {
        fn below(&self) -> &dyn Disk {
            &self.below
        }
        fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
            self.files.fetch_add(1, Ordering::Relaxed);
            Ok(Box::new(Doubled(self.below.open(path, how)?)))
        }
        fn open_dir(&self, path: &Path) -> io::Result<Box<dyn DiskDir>> {
            self.dirs.fetch_add(1, Ordering::Relaxed);
            self.below.open_dir(path)
        }
    }

    /// A file that says that it is twice as long.
    #[derive(Debug)]
    struct Doubled(Box<dyn DiskFile>);

    impl super::FileLayer for Doubled {
        fn below(&self) -> &dyn DiskFile {
            &*self.0
        }
        fn len(&self) -> io::Result<u64> {
            Ok(2 * self.0.len()?)
        }
    }

    #[test]
    fn no_verb_goes_around_what_a_layer_changes_and_all_others_go_below() {
        let (disk, path) = (Counting::default(), Path::new("/f"));
        disk.write_new(path, b"abc", 0o644).unwrap();
        assert_eq!(disk.read_file(path, 5).unwrap_err().kind(), io::ErrorKind::InvalidData, "it is six long");
        disk.sync_dir(Path::new("/")).unwrap();
        disk.sync_fs(Path::new("/")).unwrap();
        let count = |of: &AtomicU32| of.load(Ordering::Relaxed);
        assert_eq!((count(&disk.files), count(&disk.dirs)), (2, 2));
        disk.rename(path, Path::new("/g")).unwrap();
        assert_eq!(disk.below.read_file(Path::new("/g"), 3).unwrap(), b"abc");
        let file = disk.open(Path::new("/g"), Open::Write).unwrap();
        file.set_len(1).unwrap();
        assert_eq!((file.len().unwrap(), disk.stat(Path::new("/g")).unwrap().len), (2, 1));
    }
}

//! Where the directories that are committed come from: real ones made by other
//! engines, and generated ones (`trees`).
//!
//! `EPOCHLOG_REALINPUTS=DIR` names a folder of `*.tar.zst` archives; without it
//! the subset in `data/` is used, so that the tests need nothing outside.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ruzstd::decoding::StreamingDecoder;

use crate::seed::Rng;

/// Directories that follow each other: the epochs of one job.
#[derive(Debug, Clone)]
pub struct Series {
    /// A valid job name.
    pub job: String,
    /// The directories, first epoch first.
    pub epochs: Vec<PathBuf>,
}

/// The folder of archives: `EPOCHLOG_REALINPUTS`, else the subset of the repository.
pub fn archives() -> PathBuf {
    std::env::var_os("EPOCHLOG_REALINPUTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("data"), PathBuf::from)
}

/// Unpacks every archive of `archives` below `into`: one series for each.
///
/// # Panics
/// When there is no archive, or one cannot be unpacked.
pub fn real_inputs(archives: &Path, into: &Path) -> Vec<Series> {
    let listed =
        fs::read_dir(archives).unwrap_or_else(|error| panic!("real inputs {}: {error}", archives.display()));
    let mut files: Vec<PathBuf> =
        listed.map(|entry| entry.expect("a listed folder can be read").path()).collect();
    files.retain(|file| file.to_string_lossy().ends_with(".tar.zst"));
    files.sort();
    assert!(!files.is_empty(), "no *.tar.zst in {}", archives.display());
    files
        .iter()
        .map(|archive| unpack(archive, into).unwrap_or_else(|error| panic!("{}: {error}", archive.display())))
        .collect()
}

fn unpack(archive: &Path, into: &Path) -> io::Result<Series> {
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let job = name.trim_end_matches(".tar.zst").to_owned();
    let folder = into.join(&job);
    fs::create_dir_all(&folder)?;
    let decoder = StreamingDecoder::new(BufReader::new(File::open(archive)?)).map_err(io::Error::other)?;
    let mut tar = tar::Archive::new(decoder);
    tar.set_preserve_permissions(true);
    tar.unpack(&folder)?;
    let mut epochs = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    epochs.sort();
    Ok(Series { job, epochs })
}

/// Successive backups of a database that is changed in place: one file of
/// `bytes`, in each epoch nine 4 KiB pages of the previous one changed.
///
/// # Panics
/// When the scratch folder cannot be written.
pub fn backups(into: &Path, bytes: u64, epochs: u32, rng: &mut Rng) -> Series {
    const PAGE_BYTES: u64 = 4096;
    let mut content = vec![0; usize::try_from(bytes).expect("a backup of this size fits in memory")];
    rng.fill(&mut content);
    let paths = (0..epochs).map(|number| into.join(format!("backup_{number}"))).collect::<Vec<_>>();
    for path in &paths {
        fs::create_dir_all(path).expect("the scratch folder can be written");
        fs::write(path.join("s.db"), &content).expect("the scratch folder can be written");
        for _ in 0..9 {
            let page =
                usize::try_from(rng.range(0, bytes / PAGE_BYTES) * PAGE_BYTES).expect("inside the content");
            rng.fill(&mut content[page..page + 4096]);
        }
    }
    Series { job: "database-backups".into(), epochs: paths }
}

/// A directory of `files` files of `bytes` each, with bytes that nothing can deduplicate.
///
/// # Panics
/// When the folder exists or cannot be written.
pub fn random_directory(at: &Path, files: u32, bytes: u64, rng: &mut Rng) {
    fs::create_dir(at).unwrap_or_else(|error| panic!("{}: {error}", at.display()));
    for number in 0..files {
        random_file(&at.join(format!("part-{number:05}")), bytes, rng);
    }
}

/// A file of `bytes` random bytes.
///
/// # Panics
/// When it cannot be written.
pub fn random_file(at: &Path, bytes: u64, rng: &mut Rng) {
    let write = || -> io::Result<()> {
        let file = File::create(at)?;
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < bytes {
            let take = usize::try_from(bytes - offset).unwrap_or(buffer.len()).min(buffer.len());
            rng.fill(&mut buffer[..take]);
            file.write_all_at(&buffer[..take], offset)?;
            offset += take as u64;
        }
        Ok(())
    };
    let mut write = write;
    write().unwrap_or_else(|error| panic!("{}: {error}", at.display()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use crate::walk;

    #[test]
    fn the_subset_in_the_repository_holds_successive_epochs_with_shared_files() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
        let bytes: u64 =
            fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes <= 4 << 20, "the subset is {bytes} bytes");
        let scratch = Scratch::new("inputs");
        let series = real_inputs(&data, &scratch);
        assert_eq!(series.len(), 2);
        for series in &series {
            assert!(series.epochs.len() >= 3, "{} has {} epochs", series.job, series.epochs.len());
            for pair in series.epochs.windows(2) {
                assert!(walk::compare(&pair[0], &pair[1]).is_err(), "epochs differ");
            }
        }
        let rocks = &series[0].epochs;
        assert_eq!(
            fs::read(rocks[0].join("000011.sst")).unwrap(),
            fs::read(rocks[1].join("000011.sst")).unwrap()
        );
        assert_eq!(
            fs::metadata(rocks[0].join("000010.log")).unwrap().len(),
            0,
            "the real empty file is there"
        );
    }

    #[test]
    fn backups_change_few_pages_in_place() {
        let scratch = Scratch::new("backups");
        let series = backups(&scratch, 1 << 20, 2, &mut Rng::new(7, "backups"));
        let [a, b] = [0, 1].map(|number: usize| fs::read(series.epochs[number].join("s.db")).unwrap());
        let changed = a.chunks(4096).zip(b.chunks(4096)).filter(|(x, y)| x != y).count();
        assert!((1..=9).contains(&changed), "{changed} pages changed");
    }
}

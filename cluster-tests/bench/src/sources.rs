//! The directories that are committed.

use std::fs;
use std::path::Path;

use cluster_tests::inputs::random_file;
use cluster_tests::seed::Rng;

/// `files` files from 64 KiB to 16 MiB, `bytes` together.
pub fn mixed(at: &Path, files: u32, bytes: u64, rng: &mut Rng) {
    fs::create_dir(at).expect("the scratch folder can be written");
    // Sizes spread evenly over the powers, then scaled to the sum.
    let mut sizes: Vec<u64> = (0..files).map(|_| (64 << 10) << rng.range(0, 8)).collect();
    let sum: u64 = sizes.iter().sum();
    for size in &mut sizes {
        *size = ((*size as f64 * bytes as f64 / sum as f64) as u64).clamp(64 << 10, 16 << 20);
    }
    for (number, size) in sizes.into_iter().enumerate() {
        random_file(&at.join(format!("file-{number:03}")), size, rng);
    }
}

/// `files` files of 1 to 8 KiB, 500 a folder.
pub fn small(at: &Path, files: u32, rng: &mut Rng) {
    for number in 0..files {
        let folder = at.join(format!("{:03}", number / 500));
        if number % 500 == 0 {
            fs::create_dir_all(&folder).expect("the scratch folder can be written");
        }
        random_file(&folder.join(format!("{number:06}")), rng.range(1024, 8193), rng);
    }
}

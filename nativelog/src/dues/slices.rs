//! How much of a long table or list is done at a time while others wait.

/// At most so many rows are looked at or changed while the book, or the ledger, is held.
pub const SLICE: usize = 4096;

/// Does with things that may be many what `each` does with a few. What makes them is not asked meanwhile.
pub fn in_slices<T>(all: impl IntoIterator<Item = T>, mut each: impl FnMut(Vec<T>)) {
    let mut all = all.into_iter();
    loop {
        let slice: Vec<T> = all.by_ref().take(SLICE).collect();
        if slice.is_empty() {
            return;
        }
        each(slice);
    }
}

//! Who may have sealed: decided once for each try.

use std::sync::atomic::{AtomicU8, Ordering};

/// Whether the node of one try may seal: decided once, either by handing it the seal or by the end
/// of the try, after which the seal is not handed out any more.
#[derive(Default)]
pub(super) struct Handing(AtomicU8);

const OPEN: u8 = 0;
const HANDED: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Handing {
    /// Before the seal is sent; false when the try is over and nothing may be sent.
    pub(super) fn hand(&self) -> bool {
        self.0.compare_exchange(OPEN, HANDED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The try is over; true when the node may have sealed.
    pub(super) fn end(&self) -> bool {
        self.0.compare_exchange(OPEN, WITHDRAWN, Ordering::SeqCst, Ordering::SeqCst) == Err(HANDED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_handed_out_or_withdrawn_never_both() {
        let handed = Handing::default();
        assert!(handed.hand());
        assert!(handed.end() && handed.end());
        let withdrawn = Handing::default();
        assert!(!withdrawn.end());
        assert!(!withdrawn.hand() && !withdrawn.end());
    }
}

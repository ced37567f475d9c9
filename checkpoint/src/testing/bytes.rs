//! The bytes of one file in pages, so that a copy of a disk costs little and
//! holes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

const PAGE: u64 = 4096;

#[derive(Clone, Debug, Default)]
pub(super) struct Bytes {
    len: u64,
    // Blocks are reserved up to here, bytes.
    reserved: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE as usize]>>,
}

impl Bytes {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn blocks(&self) -> u64 {
        (self.pages.len() as u64 * (PAGE / 512)).max(self.reserved.div_ceil(512))
    }

    pub(super) fn reserve(&mut self, end: u64) {
        self.reserved = self.reserved.max(end);
        self.len = self.len.max(end);
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let n = (buf.len() as u64).min(self.len.saturating_sub(offset)) as usize;
        let mut done = 0;
        while done < n {
            let at = offset + done as u64;
            let inside = (at % PAGE) as usize;
            let take = (n - done).min(PAGE as usize - inside);
            match self.pages.get(&(at / PAGE)) {
                Some(page) => buf[done..done + take].copy_from_slice(&page[inside..inside + take]),
                None => buf[done..done + take].fill(0),
            }
            done += take;
        }
        n
    }

    pub(super) fn write(&mut self, data: &[u8], offset: u64) {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let inside = (at % PAGE) as usize;
            let take = (data.len() - done).min(PAGE as usize - inside);
            let page = self.pages.entry(at / PAGE).or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(page)[inside..inside + take].copy_from_slice(&data[done..done + take]);
            done += take;
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    /// The first pages in a row that were ever written, as far as they lie in `[at, end)`.
    pub(super) fn next_data(&self, at: u64, end: u64) -> Option<(u64, u64)> {
        let end = end.min(self.len);
        if at >= end {
            return None;
        }
        let mut data: Option<(u64, u64)> = None;
        for page in self.pages.range(at / PAGE..end.div_ceil(PAGE)).map(|(page, _)| page * PAGE) {
            match &mut data {
                Some((_, until)) if *until < page => break,
                Some((_, until)) => *until = page + PAGE,
                None => data = Some((page.max(at), page + PAGE)),
            }
        }
        data.map(|(start, until)| (start, until.min(end))).filter(|(start, until)| start < until)
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let inside = (len % PAGE) as usize;
            drop(self.pages.split_off(&len.div_ceil(PAGE)));
            if inside > 0
                && let Some(page) = self.pages.get_mut(&(len / PAGE))
            {
                Arc::make_mut(page)[inside..].fill(0);
            }
        }
        self.reserved = self.reserved.min(len);
        self.len = len;
    }

    pub(super) fn flip(&mut self, bit: u64) -> bool {
        let mut byte = [0];
        if self.read(&mut byte, bit / 8) == 0 {
            return false;
        }
        self.write(&[byte[0] ^ 1 << (bit % 8)], bit / 8);
        true
    }
}

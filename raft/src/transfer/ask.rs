//! One call to one peer. Nothing that comes is believed: items must come in order, none may be longer than
//! asked for, and an answer that ends early or is silent for long is given up. Digests are the caller's to check.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tonic::{Code, Response, Status, Streaming};

use super::turn::{Stop, stopped};
use crate::identity::Check;
use crate::network::peers::{Client, Lane, Peers};
use crate::proto::{ItemPart, Miss};

/// A peer that says nothing for so long is given up; one that is at work says so every second.
pub const STALL: Duration = Duration::from_secs(15);

/// Why a call brought no more.
#[derive(Debug)]
pub enum Trouble {
    /// The peer cannot be reached, or is silent.
    Away(String),
    /// The peer cannot answer now, or does not keep to the protocol.
    Peer(String),
    /// The transfer has to end.
    Stopped,
}

impl Trouble {
    fn of(status: &Status) -> Trouble {
        let why = status.message().to_owned();
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => Trouble::Away(why),
            _ => Trouble::Peer(why),
        }
    }
}

/// An item that a peer does not have.
#[derive(Debug, Clone)]
pub struct Missed {
    /// Why, for programs.
    pub miss: Miss,
    /// Why, for people.
    pub why: String,
}

/// What an answer brings next.
#[derive(Debug)]
pub enum Event {
    /// The next bytes of an item.
    Data(usize, Bytes),
    /// So many zero bytes of an item come next; no more than it may have.
    Zeros(usize, u64),
    /// The item is not to be had there.
    Missed(usize, Missed),
}

/// The items of one answer.
pub struct Items {
    parts: Streaming<ItemPart>,
    sizes: Vec<u64>,
    /// Items have exactly these sizes, not at most.
    exact: bool,
    item: usize,
    got: u64,
    stop: Stop,
}

/// A client of `peer` on the transfer connection.
pub fn client(peers: &Peers, peer: u64) -> Result<Client, Trouble> {
    peers.member(peer, Lane::Transfer, Check::Full).map_err(|status| Trouble::of(&status))
}

/// Waits for `call` as long as the transfer goes on.
pub async fn opened<T>(
    stop: &Stop,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Trouble> {
    tokio::select! {
        () = stopped(stop) => Err(Trouble::Stopped),
        opened = tokio::time::timeout(STALL, call) => match opened {
            Err(_) => Err(Trouble::Away(format!("no answer for {STALL:?}"))),
            Ok(Err(status)) => Err(Trouble::of(&status)),
            Ok(Ok(response)) => Ok(response.into_inner()),
        },
    }
}

impl Items {
    /// An answer with one item for each of `sizes`.
    pub fn exactly(parts: Streaming<ItemPart>, sizes: Vec<u64>, stop: &Stop) -> Items {
        Items { parts, sizes, exact: true, item: 0, got: 0, stop: stop.clone() }
    }

    /// An answer with one item of at most `bytes`.
    pub fn at_most(parts: Streaming<ItemPart>, bytes: u64, stop: &Stop) -> Items {
        Items { parts, sizes: vec![bytes], exact: false, item: 0, got: 0, stop: stop.clone() }
    }

    /// What comes next; `None` when the answer is complete.
    pub async fn next(&mut self) -> Result<Option<Event>, Trouble> {
        loop {
            let part = tokio::select! {
                () = stopped(&self.stop) => return Err(Trouble::Stopped),
                part = tokio::time::timeout(STALL, self.parts.message()) => part,
            };
            let part = match part {
                Err(_) => return Err(Trouble::Away(format!("silent for {STALL:?}"))),
                Ok(Err(status)) => return Err(Trouble::of(&status)),
                Ok(Ok(None)) if self.exact && self.item < self.sizes.len() => {
                    return Err(Trouble::Peer("the answer ends too early".into()));
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Ok(Some(part))) => part,
            };
            if part.data.is_empty() && part.zeros == 0 && part.miss() == Miss::None {
                continue;
            }
            return self.take(part).map(Some).map_err(|why| Trouble::Peer(why.into()));
        }
    }

    fn take(&mut self, part: ItemPart) -> Result<Event, &'static str> {
        let item = self.item;
        if part.item as usize != item || item >= self.sizes.len() {
            return Err("items come out of order");
        }
        if part.miss() != Miss::None {
            self.item += 1;
            self.got = 0;
            return Ok(Event::Missed(item, Missed { miss: part.miss(), why: part.why }));
        }
        if part.zeros > 0 && !part.data.is_empty() {
            return Err("a part is both bytes and zeros");
        }
        let left = self.sizes[item] - self.got;
        let came = part.zeros.max(part.data.len() as u64);
        if came > left {
            return Err("an item is longer than it should be");
        }
        self.got += came;
        if self.exact && self.got == self.sizes[item] {
            self.item += 1;
            self.got = 0;
        }
        Ok(if part.zeros > 0 { Event::Zeros(item, part.zeros) } else { Event::Data(item, part.data) })
    }

    /// All items at once, in memory: the caller bounded their sizes.
    pub async fn collect(mut self) -> Result<Vec<Result<Bytes, Missed>>, Trouble> {
        let mut got: Vec<Result<Vec<Bytes>, Missed>> = self.sizes.iter().map(|_| Ok(Vec::new())).collect();
        while let Some(event) = self.next().await? {
            match event {
                Event::Missed(item, missed) => got[item] = Err(missed),
                Event::Zeros(item, len) => {
                    if let Ok(parts) = &mut got[item] {
                        parts.push(vec![0; len as usize].into());
                    }
                }
                Event::Data(item, data) => {
                    if let Ok(parts) = &mut got[item] {
                        parts.push(data);
                    }
                }
            }
        }
        Ok(got.into_iter().map(|item| item.map(joined)).collect())
    }
}

fn joined(mut parts: Vec<Bytes>) -> Bytes {
    match parts.len() {
        1 => parts.remove(0),
        _ => parts.concat().into(),
    }
}

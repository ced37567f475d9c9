//! Greetings that go on, by where they come from, so that one address cannot push out another.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tokio::task::AbortHandle;

/// Bits of an address of IPv6 that somebody cannot choose: whoever has one has the network behind them.
const NETWORK: u128 = !0 << 64;

/// Sources with at most so many count alike: a node makes four connections at once, and makes them anew after a cut.
const ALIKE: usize = 8;

/// What counts as one address: of IPv6 a network, because whoever has one address there has 2^64.
pub fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & NETWORK)),
        address => address,
    }
}

/// Where connections come from: an address, or a network of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(Option<IpAddr>);

impl Source {
    /// Of a connection from there; those whose other side is gone already are alike.
    pub fn of(from: Option<SocketAddr>) -> Source {
        Source(from.map(|from| source(from.ip())))
    }
}

/// The greetings that have not ended.
#[derive(Default)]
pub struct Sources {
    oldest_first: VecDeque<(Source, AbortHandle)>,
}

impl Sources {
    /// One more.
    pub fn push(&mut self, source: Source, greeting: AbortHandle) {
        self.oldest_first.push_back((source, greeting));
    }

    /// Ends what is too much for another one to come, if there may be `most`: the oldest of the source that has the most, and
    /// of sources that count alike, the oldest of all.
    pub fn make_room(&mut self, most: usize) {
        self.oldest_first.retain(|(_, greeting)| !greeting.is_finished());
        if self.oldest_first.len() < most {
            return;
        }
        let mut counts: HashMap<Source, usize> = HashMap::new();
        for (source, _) in &self.oldest_first {
            *counts.entry(*source).or_default() += 1;
        }
        let weight = |source: &Source| counts.get(source).copied().unwrap_or(0).max(ALIKE);
        let highest = counts.keys().map(weight).max();
        let oldest = self.oldest_first.iter().position(|(source, _)| Some(weight(source)) == highest);
        if let Some((_, greeting)) = oldest.and_then(|at| self.oldest_first.remove(at)) {
            greeting.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let of = |address: &str| Source::of(Some(address.parse().unwrap()));
        assert_eq!(of("[2001:db8:1:2::1]:1"), of("[2001:db8:1:2:ffff::9]:2"));
        assert_ne!(of("[2001:db8:1:2::1]:1"), of("[2001:db8:1:3::1]:1"));
        assert_eq!(of("[::ffff:10.0.0.1]:1"), of("10.0.0.1:2"));
        assert_ne!(of("10.0.0.1:1"), of("10.0.0.2:1"));
    }

    #[tokio::test]
    async fn the_oldest_of_the_source_with_the_most_goes() {
        let of = |last: u8| Source::of(Some(SocketAddr::from(([10, 0, 0, last], 1))));
        let mut sources = Sources::default();
        let many = std::iter::repeat_n(2, ALIKE + 1);
        let silent: Vec<_> = std::iter::once(1)
            .chain(many)
            .map(|last| (of(last), tokio::spawn(std::future::pending::<()>())))
            .collect();
        for (source, greeting) in &silent {
            sources.push(*source, greeting.abort_handle());
        }
        let all = silent.len();
        sources.make_room(all + 1);
        assert_eq!(sources.oldest_first.len(), all, "there is room");
        sources.make_room(all);
        assert_eq!(sources.oldest_first.len(), all - 1);
        assert_eq!(sources.oldest_first[0].0, of(1), "it has fewer than the other");
        // Now they count alike.
        sources.make_room(all - 1);
        assert_eq!(sources.oldest_first[0].0, of(2), "the oldest of all");
        for (_, ended) in silent.into_iter().take(2) {
            assert!(ended.await.unwrap_err().is_cancelled());
        }
    }
}

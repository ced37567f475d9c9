//! Where guests come from, and which of them may be other nodes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Weak;
use std::time::Duration;

use super::port::Guests;

/// Pause between two looks for the addresses of other nodes.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The system may look for a name for so long.
const NAME_PATIENCE: Duration = Duration::from_secs(5);

/// What counts as one address: of IPv6 a network, because whoever has one address there has 2^64.
pub fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) >> 64 << 64)),
        ip => ip,
    }
}

/// Tells the house from time to time where other nodes are: `names` are `HOST:PORT`. Ends with the house.
pub async fn follow(guests: Weak<Guests>, names: impl Fn() -> Vec<String>) {
    loop {
        let mut known = BTreeSet::new();
        for name in names() {
            // What cannot be found just now has no reserve; it is looked for again.
            let found = tokio::time::timeout(NAME_PATIENCE, tokio::net::lookup_host(&name)).await;
            if let Ok(Ok(found)) = found {
                known.extend(found.map(|address| address.ip().to_canonical()));
            }
        }
        match guests.upgrade() {
            Some(guests) => guests.house().know(known),
            None => return,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::3"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::3"), of("2001:db8:1:3::3"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("::ffff:10.0.0.1"), of("::ffff:10.0.0.2"));
    }
}

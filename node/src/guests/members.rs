//! Where other nodes are: their guests have places of their own.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::time::Duration;

use super::port::Guests;

/// Pause between two looks for the addresses of other nodes.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The system may look for a name for so long.
const NAME_PATIENCE: Duration = Duration::from_secs(5);

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

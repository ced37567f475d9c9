//! Whether the prefix that a node reaches under a name is the one that the log knows by it.

use nativelog::ledger::StoreInfo;
use remote::Marker;
use uuid::Uuid;

/// Whether a marker is that of the store that the log knows; else why not.
///
/// # Errors
/// Another store lies there, or somebody has deleted there whom this log does not know. Nothing may be uploaded there, deleted or
/// fetched.
pub fn agrees(marker: &Marker, known: &StoreInfo) -> Result<(), String> {
    if *marker.store.as_bytes() != known.uuid {
        return Err(format!(
            "the log knows {} as store {}, and behind this node's address lies {}: another prefix, or one that was emptied",
            known.name,
            Uuid::from_bytes(known.uuid),
            marker.store
        ));
    }
    if marker.deletes != known.batch && !known.before.contains(&marker.deletes) {
        return Err(format!(
            "somebody has deleted in the store {} whom this cluster's log does not know: a copy of all of its folders runs, too",
            known.name
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(deletes: u64) -> Marker {
        let text = format!(
            "{{\"format\":1,\"store\":\"{}\",\"cluster\":\"{}\",\"deletes\":{deletes}}}",
            Uuid::from_u128(7),
            Uuid::from_u128(9)
        );
        serde_json::from_str(&text).expect("a marker")
    }

    #[test]
    fn a_store_is_the_one_that_the_log_knows_or_it_is_not_used() {
        let known = StoreInfo {
            id: 5,
            name: "main".into(),
            uuid: *Uuid::from_u128(7).as_bytes(),
            batch: 3,
            before: vec![2],
        };
        agrees(&marker(3), &known).unwrap();
        // A batch has begun in the log, and the marker is still to be written.
        agrees(&marker(2), &known).unwrap();
        assert!(agrees(&marker(1), &known).unwrap_err().contains("a copy of all of its folders"));
        let other = StoreInfo { uuid: *Uuid::from_u128(8).as_bytes(), ..known };
        assert!(agrees(&marker(3), &other).unwrap_err().contains("another prefix"));
    }
}

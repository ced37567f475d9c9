//! `verify --objects NAME`: an object store, compared with the log.

use client::{Client, Code, Failure, pb};
use pb::verify_objects_reply::Kind;
use serde_json::{Value, json};

use crate::cli::output::{Output, failure_json};
use crate::units;

/// Objects that a failure names; the lines above it have all.
const NAMED_MAX: usize = 5;

/// Runs the command.
pub async fn run(
    (store, deep, repair): (&str, bool, bool),
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let what = format!("verify --objects {store}");
    let request = pb::VerifyObjectsRequest { store: store.to_owned(), deep, repair, ..Default::default() };
    let (mut wrong, mut done) = (Vec::new(), None);
    let mut each = |kind| match kind {
        Kind::Object(object) => {
            match output.is_json() {
                true => output.progress(&object_json(&object)),
                false => output.line(words(&object, repair)),
            }
            wrong.push(object);
        }
        Kind::Done(found) => done = Some(found),
        Kind::Working(_) => {}
    };
    client.verify_objects(request, &mut each).await?;
    let Some(done) = done else {
        return Err(Failure::new(Code::NotLooked, "the node broke off before it had looked at everything")
            .what(what)
            .why("its answer ended before all was told")
            .fix("repeat the command"));
    };
    let failure = failure(what, &wrong, &done, repair);
    if output.is_json() {
        output.outcome(summary(&done, &wrong));
    }
    if done.garbage + done.foreign > 0 {
        output.note(format!(
            "besides, {} objects are left of commits that have ended, and {} are none of this cluster's log: see `epochlog gc \
             --objects {store}`",
            done.garbage, done.foreign
        ));
    }
    match failure {
        Some(failure) => Err(failure),
        None => {
            output.note(in_order(&done, &wrong, deep));
            Ok(())
        }
    }
}

fn in_order(done: &pb::ObjectsVerified, wrong: &[pb::WrongObject], deep: bool) -> String {
    let (objects, bytes) = (done.referenced, units::size(done.bytes));
    let read = match deep {
        true => format!("read, {} of them", units::size(done.read_bytes)),
        false => "listed; `--deep` reads them".to_owned(),
    };
    let mended: u64 = wrong.iter().map(|object| object.rehomed).sum();
    let mended = if mended > 0 {
        format!("; {mended} contents of {} lost objects lie in new ones now", wrong.len())
    } else {
        String::new()
    };
    format!("{objects} objects, {bytes}, are as the log says ({read}){mended}")
}

/// Whether all that lay in it lies elsewhere now.
fn is_mended(object: &pb::WrongObject) -> bool {
    object.contents > 0 && object.rehomed >= object.contents && object.epochs.is_empty()
}

/// Whether it is for somebody else to see to.
fn is_of_commit(object: &pb::WrongObject) -> bool {
    object.open
}

fn words(object: &pb::WrongObject, repair: bool) -> String {
    let mut said = format!("{} {}: {}", object.state, object.key, object.why);
    if is_of_commit(object) {
        said += "; only a commit that is under way names it, which sees to it itself";
    }
    if !object.epochs.is_empty() {
        said += &format!(
            "; it is the manifest of {}, which no record can give another place yet: the log has all that it says",
            object.epochs.join(", ")
        );
    }
    if object.contents > 0 && repair {
        said += &format!("; {} of {} contents lie in a new object now", object.rehomed, object.contents);
        if object.nowhere > 0 {
            said += &match object.nodes.is_empty() {
                true => format!(", {} are on no node: THEY ARE LOST", object.nowhere),
                false => format!(", {} are on no node that could be asked", object.nowhere),
            };
        }
    } else if object.contents > 0 {
        said += &format!("; {} contents lie in it", object.contents);
    }
    for node in &object.nodes {
        said += &format!("; {node}");
    }
    if let Some(failed) = &object.failed {
        said += &format!("; not put back: {}: {}", failed.sentence, failed.why);
    }
    said
}

fn failure(
    what: String,
    wrong: &[pb::WrongObject],
    done: &pb::ObjectsVerified,
    repair: bool,
) -> Option<Failure> {
    let left: Vec<&pb::WrongObject> =
        wrong.iter().filter(|object| !is_mended(object) && !is_of_commit(object)).collect();
    if left.is_empty() {
        return None;
    }
    let unread = left.iter().all(|object| object.state == "unread");
    let (code, sentence) = match unread {
        true => {
            (Code::NotLooked, format!("{} of {} objects could not be looked at", left.len(), done.referenced))
        }
        false => {
            (Code::Corrupt, format!("{} of {} objects are not as the log says", left.len(), done.referenced))
        }
    };
    let mut why: Vec<String> =
        left.iter().take(NAMED_MAX).map(|object| format!("{} is {}", object.key, object.state)).collect();
    if left.len() > NAMED_MAX {
        why.push(format!("and {} more", left.len() - NAMED_MAX));
    }
    Some(Failure::new(code, sentence).what(what).why(why.join("; ")).fix(advice(&left, repair)))
}

fn advice(left: &[&pb::WrongObject], repair: bool) -> String {
    let mut advice = Vec::new();
    let any = |is: fn(&pb::WrongObject) -> bool| left.iter().any(|object| is(object));
    if !repair && any(|object| object.contents > 0) {
        advice.push("repeat with --repair: nodes that hold what is lost upload it anew, under other names");
    }
    if repair && any(|object| object.nowhere > 0 && !object.nodes.is_empty()) {
        advice.push("a node that could not be asked may hold it: see to it, then repeat the command");
    }
    if repair && any(|object| object.nowhere > 0 && object.nodes.is_empty()) {
        advice.push("what is on no node is lost: restore an older epoch, or commit the bytes again");
    }
    if any(|object| object.failed.is_some()) {
        advice.push("see above why it was not put back, then repeat the command");
    }
    if any(|object| !object.epochs.is_empty()) {
        advice.push("a lost manifest hurts nobody as long as the log is there: the next epoch has a new one");
    }
    advice.push("see why the store loses objects: a rule of the bucket that removes old ones, say");
    advice.join("; ")
}

fn object_json(object: &pb::WrongObject) -> Value {
    let mut value = json!({
        "type": "object",
        "key": object.key,
        "state": object.state,
        "bytes": object.bytes,
        "why": object.why,
        "contents": object.contents,
        "manifest_of": object.epochs,
        "open": object.open,
        "rehomed": object.rehomed,
        "nowhere": object.nowhere,
        "not_asked": object.nodes,
    });
    if let Some(failed) = &object.failed {
        value["error"] = failure_json(&Failure::from_pb(failed.clone()));
    }
    value
}

fn summary(done: &pb::ObjectsVerified, wrong: &[pb::WrongObject]) -> Value {
    let count = |state: &str| wrong.iter().filter(|object| object.state == state).count();
    json!({
        "type": "summary",
        "store": done.store,
        "node": done.node,
        "applied": done.applied,
        "referenced": done.referenced,
        "bytes": done.bytes,
        "read_bytes": done.read_bytes,
        "missing": count("missing"),
        "short": count("short"),
        "damaged": count("damaged"),
        "unread": count("unread"),
        "rehomed": wrong.iter().map(|object| object.rehomed).sum::<u64>(),
        "nowhere": wrong.iter().map(|object| object.nowhere).sum::<u64>(),
        "surplus": { "released": done.released, "garbage": done.garbage, "foreign": done.foreign },
        "cut": done.cut,
        "objects": wrong.iter().map(object_json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(contents: u64, rehomed: u64, nowhere: u64) -> pb::WrongObject {
        pb::WrongObject {
            key: "ab/x".into(),
            state: "missing".into(),
            why: "the store has no such object".into(),
            contents,
            rehomed,
            nowhere,
            ..Default::default()
        }
    }

    fn judged(wrong: &[pb::WrongObject], repair: bool) -> Option<Failure> {
        failure("verify".into(), wrong, &pb::ObjectsVerified { referenced: 9, ..Default::default() }, repair)
    }

    #[test]
    fn what_is_put_back_is_no_failure_and_what_is_nowhere_is_said_plainly() {
        assert_eq!(judged(&[], false), None);
        assert_eq!(judged(&[wrong(2, 2, 0)], true), None);
        let found = judged(&[wrong(2, 0, 0)], false).unwrap();
        assert_eq!(
            (found.code, found.sentence.as_str()),
            (Code::Corrupt, "1 of 9 objects are not as the log says")
        );
        assert!(found.fix.contains("--repair"), "{}", found.fix);
        let lost = wrong(2, 1, 1);
        assert!(
            words(&lost, true)
                .contains("1 of 2 contents lie in a new object now, 1 are on no node: THEY ARE LOST")
        );
        assert!(judged(std::slice::from_ref(&lost), true).unwrap().fix.contains("restore an older epoch"));
        let unasked = pb::WrongObject { nodes: vec!["node 3: no answer".into()], ..lost };
        assert!(!words(&unasked, true).contains("LOST"), "{}", words(&unasked, true));
        assert!(judged(&[unasked], true).unwrap().fix.contains("may hold it"));
        let manifest = pb::WrongObject { epochs: vec!["job@1".into()], ..wrong(0, 0, 0) };
        assert!(words(&manifest, true).contains("the manifest of job@1"));
        assert!(judged(&[manifest], true).is_some());
        let open = pb::WrongObject { open: true, ..wrong(0, 0, 0) };
        assert_eq!(judged(&[open], true), None, "its commit sees to it");
        let unread = pb::WrongObject { state: "unread".into(), ..wrong(2, 0, 0) };
        assert_eq!(judged(&[unread], true).unwrap().code, Code::NotLooked);
    }
}

//! Calls about what lies in an object store. The engine is [`crate::objects`]; here are callers, turns and other nodes.
//!
//! The leader collects garbage, because ledger, marker and leadership are in one place there: other nodes pass the call on.
//! Any node verifies, since that only reads; what it cannot put back itself it asks the others to.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use client::{Code, Failure, pb};
use nativelog::ledger::{ObjectClass, ObjectKey};
use pb::gc_reply::Kind as Gc;
use pb::verify_objects_reply::Kind as Verified;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::call::Answers;
use crate::guests::Call;
use crate::limits::{KEYS_MAX, OBJECTS_ASKED_MAX};
use crate::node::Node;
use crate::objects::{self, Count, Place, Plan, State, Wrong};
use crate::turns::Turn;

/// How often a caller hears that the node goes on.
const WORKING_EVERY: Duration = Duration::from_secs(1);
/// A caller who takes nothing for so long has gone or hangs: his call ends.
const STALL: Duration = Duration::from_secs(60);
/// Another node that says nothing for so long is away.
const SILENCE: Duration = Duration::from_secs(30);

/// One caller.
struct Teller<T>(mpsc::Sender<Result<T, Status>>);

impl<T> Teller<T> {
    async fn tell(&self, reply: T) -> Result<(), Failure> {
        match tokio::time::timeout(STALL, self.0.send(Ok(reply))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Failure::new(Code::Interrupted, "the client went away")),
        }
    }

    /// Waits for `what`, and tells the caller from time to time that the node goes on.
    async fn meanwhile<R>(
        &self,
        working: impl Fn() -> T,
        what: impl Future<Output = R>,
    ) -> Result<R, Failure> {
        let mut what = std::pin::pin!(what);
        loop {
            tokio::select! {
                done = &mut what => return Ok(done),
                () = tokio::time::sleep(WORKING_EVERY) => self.tell(working()).await?,
            }
        }
    }
}

fn answers<T, R>(
    node: Arc<Node>,
    place: Option<Arc<Call>>,
    work: impl FnOnce(Arc<Node>, Teller<T>) -> R + Send + 'static,
) -> Answers<T>
where
    T: Send + 'static,
    R: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let (send, answers) = mpsc::channel(16);
    tokio::spawn(async move {
        // A call counts until nobody works on it any more.
        let _place = place;
        if let Err(failure) = work(node.clone(), Teller(send.clone())).await {
            // It fails only when the caller is gone: then there is nobody to tell.
            let _ = send.send(Err(node.outward_failure(failure).to_status())).await;
        }
    });
    Box::pin(ReceiverStream::new(answers))
}

async fn turn(node: &Node) -> Result<Turn, Failure> {
    let turns = &node.turns.verifies;
    turns.take().await.map_err(|busy| turns.refused(node.config.id, busy))
}

/// Says what lies in a store, and deletes its garbage when asked to.
pub fn gc(node: Arc<Node>, request: pb::GcRequest, place: Option<Arc<Call>>) -> Answers<pb::GcReply> {
    answers(node, place, |node, teller| async move { collect(&node, request, &teller).await })
}

fn gc_working() -> pb::GcReply {
    gc_reply(Gc::Working(pb::Working {}))
}

fn gc_reply(kind: Gc) -> pb::GcReply {
    pb::GcReply { kind: Some(kind) }
}

async fn collect(node: &Node, request: pb::GcRequest, teller: &Teller<pb::GcReply>) -> Result<(), Failure> {
    if !node.replica.is_leader() {
        return pass_on(node, request, teller).await;
    }
    let _turn = teller.meanwhile(gc_working, turn(node)).await??;
    let plan = teller.meanwhile(gc_working, Plan::make(node, &request.store)).await??;
    teller.tell(gc_reply(Gc::Plan(plan_pb(node, &plan)))).await?;
    for keys in plan.garbage.chunks(KEYS_MAX) {
        let keys = keys.iter().map(|(key, _)| plan.place.told(key)).collect();
        teller.tell(gc_reply(Gc::Garbage(pb::GcKeys { keys }))).await?;
    }
    if !request.act {
        return Ok(());
    }
    let acted = teller.meanwhile(gc_working, plan.act(node)).await?;
    let done = pb::GcDone {
        deleted: acted.deleted,
        deleted_bytes: acted.deleted_bytes,
        uploads_ended: acted.uploads_ended,
        left: plan.len() - acted.deleted - acted.uploads_ended,
        failed: acted.failed.map(|failure| node.outward_failure(failure).to_pb()),
    };
    teller.tell(gc_reply(Gc::Done(done))).await
}

/// Has the leader do it.
async fn pass_on(node: &Node, request: pb::GcRequest, teller: &Teller<pb::GcReply>) -> Result<(), Failure> {
    let no_leader = |why: String| {
        Failure::new(node.no_way().0, "no way to the leader, nothing was changed")
            .what(format!("gc --objects {}", request.store))
            .why(why)
            .fix("see `epochlog status`, then repeat the command")
    };
    let leader = node.replica.leader().filter(|leader| *leader != node.config.id && !request.direct);
    let Some(leader) = leader else { return Err(no_leader("no node leads now".into())) };
    let Some((_, mut stub)) = node.peer(leader) else {
        return Err(no_leader(format!("node {leader} leads, and {}", super::status::UNTOLD)));
    };
    let request = pb::GcRequest { direct: true, ..request.clone() };
    let asked = tokio::time::timeout(SILENCE, stub.gc(request)).await;
    let mut stream = match asked {
        Ok(Ok(stream)) => stream.into_inner(),
        Ok(Err(status)) => return Err(Failure::from_status(&status)),
        Err(_) => return Err(no_leader(format!("node {leader} leads and does not answer"))),
    };
    while let Some(reply) = next(&mut stream, leader).await? {
        teller.tell(reply).await?;
    }
    Ok(())
}

/// What another node says next.
async fn next<T>(stream: &mut Streaming<T>, node: u64) -> Result<Option<T>, Failure> {
    match tokio::time::timeout(SILENCE, stream.message()).await {
        Ok(reply) => reply.map_err(|status| Failure::from_status(&status)),
        Err(_) => Err(Failure::new(Code::Unavailable, "a node said nothing any more")
            .why(format!("node {node} is silent for {} s", SILENCE.as_secs()))
            .fix("see `epochlog status`, then repeat the command: what is done is not done twice")),
    }
}

fn plan_pb(node: &Node, plan: &Plan) -> pb::GcPlan {
    pb::GcPlan {
        store: plan.place.kept.name().to_owned(),
        node: node.config.id,
        applied: plan.applied,
        objects: classes(&plan.objects),
        uploads: classes(&plan.uploads),
        uploads_unknown: plan.uploads_unknown.clone().unwrap_or_default(),
        cut: plan.cut,
    }
}

/// All classes, also those of which there is nothing.
fn classes(counts: &BTreeMap<ObjectClass, Count>) -> Vec<pb::ClassOfObjects> {
    let class = |class: ObjectClass| {
        let Count { count, bytes, mut examples } = counts.get(&class).cloned().unwrap_or_default();
        if !matches!(class, ObjectClass::Garbage | ObjectClass::Foreign) {
            examples.clear();
        }
        pb::ClassOfObjects { class: class.as_str().to_owned(), count, bytes, examples }
    };
    ObjectClass::ALL.into_iter().map(class).collect()
}

/// Compares a store with the log, and has put back what is lost when asked to.
pub fn verify(
    node: Arc<Node>,
    request: pb::VerifyObjectsRequest,
    place: Option<Arc<Call>>,
) -> Answers<pb::VerifyObjectsReply> {
    answers(node, place, |node, teller| async move { compare(&node, request, &teller).await })
}

fn working() -> pb::VerifyObjectsReply {
    reply(Verified::Working(pb::Working {}))
}

fn reply(kind: Verified) -> pb::VerifyObjectsReply {
    pb::VerifyObjectsReply { kind: Some(kind) }
}

async fn compare(
    node: &Node,
    request: pb::VerifyObjectsRequest,
    teller: &Teller<pb::VerifyObjectsReply>,
) -> Result<(), Failure> {
    let what = format!("verify --objects {}", request.store);
    if request.keys.len() > OBJECTS_ASKED_MAX {
        return Err(Failure::new(Code::Usage, "too much for one call")
            .what(what)
            .why(format!("at most {OBJECTS_ASKED_MAX} objects")));
    }
    let turn = teller.meanwhile(working, turn(node)).await??;
    let place = teller.meanwhile(working, Place::find(node, &request.store, what)).await??;
    let looked = if request.keys.is_empty() {
        teller.meanwhile(working, objects::look(node, &place, request.deep)).await??
    } else {
        let keys: Vec<ObjectKey> = request.keys.iter().filter_map(|key| place.read(key)).collect();
        let wrong = objects::named(node, &place, &keys, request.deep);
        objects::Looked { wrong: teller.meanwhile(working, wrong).await??, ..Default::default() }
    };
    node.metrics.mismatches(looked.wrong.len());
    let mut told: Vec<pb::WrongObject> = Vec::with_capacity(looked.wrong.len());
    for wrong in &looked.wrong {
        let mut object = wrong_pb(&place, wrong);
        if request.repair && is_lost(wrong) {
            let rehomed = teller.meanwhile(working, objects::rehome(node, &place, wrong)).await?;
            object.rehomed = rehomed.moved;
            object.nowhere = rehomed.not_here;
            object.failed = rehomed.failed.map(|failure| node.outward_failure(failure).to_pb());
        }
        told.push(object);
    }
    // What comes is another node's work.
    drop(turn);
    if request.repair && !request.direct {
        for id in node.voters().into_iter().filter(|id| *id != node.config.id) {
            ask(node, id, &request, &mut told, teller).await?;
        }
    }
    for object in told {
        teller.tell(reply(Verified::Object(object))).await?;
    }
    let surplus = |class: ObjectClass| looked.surplus.get(&class).copied().unwrap_or_default();
    let done = pb::ObjectsVerified {
        store: place.kept.name().to_owned(),
        node: node.config.id,
        applied: looked.applied,
        referenced: looked.referenced.0,
        bytes: looked.referenced.1,
        wrong: looked.wrong.len() as u64,
        read_bytes: looked.read_bytes,
        released: surplus(ObjectClass::Released),
        garbage: surplus(ObjectClass::Garbage),
        foreign: surplus(ObjectClass::Foreign),
        cut: looked.cut,
    };
    teller.tell(reply(Verified::Done(done))).await
}

/// Whether what lies in it has to be put elsewhere. What could not be looked at may be as it should be.
fn is_lost(wrong: &Wrong) -> bool {
    !matches!(wrong.state, State::Unread(_)) && !wrong.contents.is_empty()
}

fn wrong_pb(place: &Place, wrong: &Wrong) -> pb::WrongObject {
    let why = match &wrong.state {
        State::Missing => "the store has no such object".to_owned(),
        State::Length(found) => format!("it has {found} bytes of {}", wrong.bytes),
        State::Damaged(why) | State::Unread(why) => why.clone(),
    };
    pb::WrongObject {
        key: place.told(&wrong.key),
        state: wrong.state.as_str().to_owned(),
        bytes: wrong.bytes,
        why,
        contents: wrong.contents.len() as u64,
        epochs: wrong.manifest_of.clone(),
        open: wrong.contents.is_empty() && wrong.manifest_of.is_empty(),
        ..pb::WrongObject::default()
    }
}

/// Has another node put back what is still to be.
async fn ask(
    node: &Node,
    id: u64,
    request: &pb::VerifyObjectsRequest,
    told: &mut [pb::WrongObject],
    teller: &Teller<pb::VerifyObjectsReply>,
) -> Result<(), Failure> {
    let lacking: Vec<String> =
        told.iter().filter(|object| object.nowhere > 0).map(|object| object.key.clone()).collect();
    for keys in lacking.chunks(OBJECTS_ASKED_MAX) {
        let asked = teller.meanwhile(working, ask_for(node, id, request, keys)).await?;
        let named: BTreeSet<&String> = keys.iter().collect();
        for object in told.iter_mut().filter(|object| named.contains(&object.key)) {
            match &asked {
                Err(why) => object.nodes.push(format!("node {id}: {why}")),
                Ok(there) => {
                    let said = there.get(&object.key);
                    merge(object, said);
                }
            }
        }
    }
    Ok(())
}

/// What another node said of an object that this one could not put back whole. It says nothing of what nobody needs any more,
/// and of what is in order.
fn merge(object: &mut pb::WrongObject, there: Option<&pb::WrongObject>) {
    match there {
        None => {
            object.rehomed += object.nowhere;
            object.nowhere = 0;
        }
        Some(there) => {
            object.rehomed += there.rehomed;
            object.nowhere = there.nowhere;
            if object.failed.is_none() {
                object.failed = there.failed.clone();
            }
        }
    }
}

async fn ask_for(
    node: &Node,
    id: u64,
    request: &pb::VerifyObjectsRequest,
    keys: &[String],
) -> Result<BTreeMap<String, pb::WrongObject>, String> {
    let why = |failure: Failure| if failure.why.is_empty() { failure.sentence } else { failure.why };
    let Some((_, mut stub)) = node.peer(id) else { return Err(super::status::UNTOLD.into()) };
    let request = pb::VerifyObjectsRequest { direct: true, keys: keys.to_vec(), ..request.clone() };
    let asked = tokio::time::timeout(SILENCE, stub.verify_objects(request)).await;
    let mut stream = match asked {
        Ok(Ok(stream)) => stream.into_inner(),
        Ok(Err(status)) => return Err(why(Failure::from_status(&status))),
        Err(_) => return Err(format!("no answer for {} s", SILENCE.as_secs())),
    };
    let mut there = BTreeMap::new();
    while let Some(reply) = next(&mut stream, id).await.map_err(why)? {
        if let Some(Verified::Object(object)) = reply.kind {
            there.insert(object.key.clone(), object);
        }
    }
    Ok(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_nodes_put_back_together_is_counted_once() {
        let lost = || pb::WrongObject { contents: 5, rehomed: 2, nowhere: 3, ..Default::default() };
        let there =
            |rehomed, nowhere| pb::WrongObject { contents: 3, rehomed, nowhere, ..Default::default() };
        let merged = |there: Option<pb::WrongObject>| {
            let mut object = lost();
            merge(&mut object, there.as_ref());
            (object.rehomed, object.nowhere)
        };
        assert_eq!(merged(Some(there(2, 1))), (4, 1));
        assert_eq!(merged(Some(there(0, 3))), (2, 3));
        // Meanwhile somebody else has, or nobody needs it.
        assert_eq!(merged(None), (5, 0));
    }
}

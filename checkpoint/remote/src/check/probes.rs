//! The probes, each one question to a store.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, PutPayload};
use tokio::time::{Instant, sleep_until};

use super::report::Verdict;
use super::scratch::{Answer, Scratch};
use crate::content::Sums;
use crate::limits::LEAF_BYTES;
use crate::line::{Failure, Kind, Patience};

const ROUNDS: usize = 4;
/// Objects that are written and read at once to see how fast that is.
const STREAMS: usize = 8;
/// How long a file is looked at: longer than a client of NFS believes what it saw.
const KEPT_FOR: Duration = Duration::from_secs(61);
/// How far the clocks may be apart.
const SKEW_MAX_S: i64 = 300;

fn holds(detail: impl Into<String>) -> Answer {
    Ok((Verdict::Holds, detail.into()))
}

fn lacks(detail: impl Into<String>) -> Answer {
    Ok((Verdict::Lacks, detail.into()))
}

/// Of a store for reading: that it answers.
pub(super) async fn reads(scratch: &Scratch<'_>) -> Answer {
    match scratch.get(&scratch.store.path_below("epochlog.json"), 64 << 10).await {
        Ok(Some(_)) => holds("the marker of the prefix is there"),
        Ok(None) => holds("it answers; no marker is there"),
        Err(failure) => lacks(failure.why),
    }
}

pub(super) async fn access(scratch: &Scratch<'_>) -> Answer {
    let (path, data) = (scratch.path("access"), scratch.data(1000));
    let begun = Instant::now();
    if let Err(failure) = scratch.put(&path, &data).await {
        return lacks(format!("writing: {}", failure.why));
    }
    let put = begun.elapsed();
    let begun = Instant::now();
    match scratch.get(&path, 2000).await {
        Err(failure) => lacks(format!("reading: {}", failure.why)),
        Ok(None) => lacks("what was written is not there"),
        Ok(Some(got)) if got != data => lacks("something else came than was written"),
        Ok(Some(_)) => {
            let get = begun.elapsed();
            match scratch.delete(&[path]).await {
                Ok(()) => holds(format!("put {} ms, get {} ms", put.as_millis(), get.as_millis())),
                Err(failure) => lacks(format!("deleting: {}", failure.why)),
            }
        }
    }
}

pub(super) async fn create(scratch: &Scratch<'_>) -> Answer {
    if !scratch.store.backend().conditional {
        return lacks("switched off in the configuration");
    }
    let (path, one, two) = (scratch.path("create"), scratch.data(1000), scratch.data(1000));
    scratch.create(&path, &one).await?;
    let second = scratch.create(&path, &two).await;
    let there = scratch.get(&path, 2000).await?;
    match second {
        Err(failure) if failure.kind != Kind::Exists => Err(failure),
        _ if there.as_ref() == Some(&two) => lacks("the second was written over the first"),
        Ok(()) => lacks("the second was answered as the first was"),
        Err(_) if there.as_ref() != Some(&one) => lacks("the second was refused, and the first is gone"),
        Err(failure) => holds(match failure.status {
            Some(status) => format!("the second is answered {status}"),
            None => "the second is refused".to_string(),
        }),
    }
}

pub(super) async fn create_raced(scratch: &Scratch<'_>, racers: usize) -> Answer {
    if !scratch.store.backend().conditional {
        return lacks("switched off in the configuration");
    }
    for round in 0..ROUNDS {
        let path = scratch.path(&format!("race-{round}"));
        let bodies: Vec<Bytes> = (0..racers).map(|_| scratch.data(1000)).collect();
        let answers = join_all(bodies.iter().map(|body| scratch.create(&path, body))).await;
        let won: Vec<usize> = (0..racers).filter(|at| answers[*at].is_ok()).collect();
        let there = scratch.get(&path, 2000).await?;
        let kept = bodies.iter().position(|body| Some(body) == there.as_ref());
        match won[..] {
            // Its answer may have been lost; its bytes are there.
            [] if kept.is_some() => {}
            [] => {
                let why = answers.into_iter().find_map(|answer| answer.err()).map(|failure| failure.why);
                let why = format!("of {racers} none was taken: {}", why.unwrap_or_default());
                return Err(Failure::new(Kind::Broken, why));
            }
            [one] if kept == Some(one) => {}
            [_] => return lacks(format!("round {round}: another than the winner is there")),
            _ => return lacks(format!("round {round}: {} of {racers} won", won.len())),
        }
    }
    holds(format!("one of {racers}, {ROUNDS} times"))
}

pub(super) async fn refuses(scratch: &Scratch<'_>) -> Answer {
    let (path, data) = (scratch.path("spoiled"), scratch.data(1000));
    match scratch.put_spoiled(&path, &data).await {
        Err(failure) if failure.kind == Kind::Garbled => {
            let answer = format!("answered {}", failure.code.unwrap_or_else(|| "with an error".into()));
            match scratch.get(&path, 2000).await? {
                None => holds(answer),
                // A key is given up then, as after any other wrong object.
                Some(_) => holds(format!("{answer}, and kept all the same")),
            }
        }
        Err(failure) => Err(failure),
        Ok(_) => match scratch.get(&path, 2000).await? {
            Some(got) if got == data => Err(Failure::new(Kind::Broken, "the body did not change on its way")),
            Some(_) => lacks("it was taken as it came"),
            None => lacks("it was answered as written, and is not there"),
        },
    }
}

pub(super) async fn reports(scratch: &Scratch<'_>) -> Answer {
    let (path, data) = (scratch.path("reports"), scratch.data(1000));
    scratch.put(&path, &data).await?;
    reported(scratch, &path, &Sums::of(&data)).await
}

async fn reported(scratch: &Scratch<'_>, path: &Path, sums: &Sums) -> Answer {
    let head = scratch.store.head_of(path, &Patience::new()).await?;
    let Some(head) = head else { return lacks("what was written is not there") };
    match head.agrees(sums) {
        Some(true) if head.crc64.is_some() => holds("CRC-64/NVME"),
        Some(true) => holds("CRC-32C"),
        Some(false) => lacks("it reports a wrong one"),
        None => lacks("it reports none"),
    }
}

pub(super) async fn ranges(scratch: &Scratch<'_>) -> Answer {
    let (path, data) = (scratch.path("ranges"), scratch.data(3000));
    scratch.put(&path, &data).await?;
    for range in [1000..2000, 0..1, 2999..3000] {
        let call = || async {
            let options =
                GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
            scratch.store.backend().objects.get_opts(&path, options).await?.bytes().await
        };
        match scratch.store.line().until_answered(0, &Patience::new(), call).await {
            Ok((got, _)) if got == data[range.start as usize..range.end as usize] => {}
            Ok(_) => return lacks(format!("other bytes came for {}-{}", range.start, range.end)),
            Err(failure) if failure.status == Some(200) => return lacks("the whole object is the answer"),
            Err(failure) => return Err(failure),
        }
    }
    holds("")
}

pub(super) async fn lists(scratch: &Scratch<'_>) -> Answer {
    let folder = scratch.path("list");
    let mut paths: Vec<Path> = ["a", "b", "c"].map(|name| Path::from(format!("{folder}/{name}"))).into();
    for path in &paths {
        scratch.put(path, &scratch.data(10)).await?;
    }
    for gone in [None, Some(1)] {
        if let Some(at) = gone {
            scratch.delete(&[paths.remove(at)]).await?;
        }
        let mut listed = scratch.list(&folder).await?;
        let in_order = listed.is_sorted();
        listed.sort();
        if listed != paths {
            return lacks(format!("{} keys of {} right after a change", listed.len(), paths.len()));
        }
        if gone.is_some() {
            return holds(if in_order { "at once, in the order of keys" } else { "at once, in no order" });
        }
    }
    unreachable!("the second turn returns")
}

// An upload of two parts, the second a short one: its id, the ids of its parts, and what they are.
async fn sent(
    scratch: &Scratch<'_>,
    parts: &dyn MultipartStore,
    path: &Path,
) -> Result<(String, Vec<PartId>, [Bytes; 2]), Failure> {
    let data = [scratch.data(LEAF_BYTES as usize), scratch.data(1000)];
    let id = scratch.begin_upload(parts, path).await?;
    let mut ids = Vec::new();
    for (index, part) in data.iter().enumerate() {
        let put = || parts.put_part(path, &id, index, PutPayload::from(part.clone()));
        let put = scratch.store.line().until_answered(part.len() as u64, &Patience::new(), put).await;
        ids.push(put?.0);
    }
    Ok((id, ids, data))
}

async fn complete(
    scratch: &Scratch<'_>,
    parts: &dyn MultipartStore,
    path: &Path,
    id: &String,
    ids: &[PartId],
) -> Result<(), Failure> {
    let complete = parts.complete_multipart(path, id, ids.to_vec());
    scratch.store.line().once(LEAF_BYTES, &Patience::new(), complete).await.map(|_| ())
}

// Whether all of it is there: looked at by its length and the bytes at the seam.
async fn is_there(scratch: &Scratch<'_>, path: &Path, data: &[Bytes; 2]) -> Result<bool, Failure> {
    let (patience, len) = (Patience::new(), LEAF_BYTES + 1000);
    match scratch.store.head_of(path, &patience).await? {
        Some(head) if head.len == len => {}
        _ => return Ok(false),
    }
    let seam = scratch.store.range(path, LEAF_BYTES - 1000..len, &patience).await?;
    Ok(seam.len() == 2000 && seam[..1000] == data[0][data[0].len() - 1000..] && seam[1000..] == data[1])
}

fn answered(answer: &Result<(), Failure>) -> String {
    match answer {
        Ok(()) => "is answered as the first was".into(),
        Err(Failure { status: Some(status), .. }) => format!("is answered {status}"),
        Err(failure) => failure.why.clone(),
    }
}

pub(super) async fn parts(scratch: &Scratch<'_>) -> Answer {
    let Some(parts) = scratch.multipart() else { return Ok((Verdict::NotAsked, "of a bucket".into())) };
    let path = scratch.path("parts");
    let (id, ids, data) = sent(scratch, parts, &path).await?;
    let first = complete(scratch, parts, &path, &id, &ids).await;
    if !is_there(scratch, &path, &data).await? {
        return match first {
            Ok(()) => lacks("they were put together, it said, and are not"),
            Err(failure) => Err(failure),
        };
    }
    let again = complete(scratch, parts, &path, &id, &ids).await;
    match is_there(scratch, &path, &data).await? {
        true => holds(format!("a second complete {}", answered(&again))),
        false => lacks("after a second complete it is another object"),
    }
}

pub(super) async fn late_complete(scratch: &Scratch<'_>) -> Answer {
    let Some(parts) = scratch.multipart() else { return Ok((Verdict::NotAsked, "of a bucket".into())) };
    let path = scratch.path("late");
    let (id, ids, _) = sent(scratch, parts, &path).await?;
    complete(scratch, parts, &path, &id, &ids).await?;
    scratch.delete(std::slice::from_ref(&path)).await?;
    let late = complete(scratch, parts, &path, &id, &ids).await;
    match scratch.store.head_of(&path, &Patience::new()).await? {
        None => holds(format!("a late complete {}", answered(&late))),
        Some(_) => lacks("a late complete brought it back"),
    }
}

pub(super) async fn reports_whole(scratch: &Scratch<'_>) -> Answer {
    let Some(parts) = scratch.multipart() else { return Ok((Verdict::NotAsked, "of a bucket".into())) };
    let path = scratch.path("whole");
    let (id, ids, data) = sent(scratch, parts, &path).await?;
    complete(scratch, parts, &path, &id, &ids).await?;
    let sums = Sums::of(&data[0]).then(Sums::of(&data[1]), 1000);
    reported(scratch, &path, &sums).await
}

pub(super) async fn uploads(scratch: &Scratch<'_>) -> Answer {
    let (Some(parts), Some(list)) = (scratch.multipart(), &scratch.store.backend().uploads) else {
        return Ok((Verdict::NotAsked, "none can be listed there".into()));
    };
    let path = scratch.path("open");
    let id = scratch.begin_upload(parts, &path).await?;
    let listed = || async {
        let page = || list.page(path.as_ref(), None);
        let page = scratch.store.line().until_answered(0, &Patience::new(), page).await;
        page.map(|(page, _)| page.uploads.contains(&(path.to_string(), id.clone())))
    };
    match listed().await {
        Ok(true) => {}
        Ok(false) => return lacks("one that is open is not among them"),
        Err(failure) if matches!(failure.kind, Kind::Refused | Kind::Missing) => return lacks(failure.why),
        Err(failure) => return Err(failure),
    }
    let abort = || parts.abort_multipart(&path, &id);
    scratch.store.line().until_answered(0, &Patience::new(), abort).await?;
    match listed().await? {
        false => holds(""),
        true => lacks("one that was ended is still among them"),
    }
}

pub(super) async fn deletes_many(scratch: &Scratch<'_>) -> Answer {
    let batch = scratch.store.backend().delete_batch;
    if batch == 1 {
        return lacks("each key takes a request");
    }
    let paths: Vec<Path> = (0..3).map(|at| scratch.path(&format!("many-{at}"))).collect();
    for path in &paths {
        scratch.put(path, &scratch.data(10)).await?;
    }
    match scratch.delete(&paths).await {
        Ok(()) => {}
        Err(failure) if matches!(failure.kind, Kind::Refused | Kind::Missing) => return lacks(failure.why),
        Err(failure) => return Err(failure),
    }
    for path in &paths {
        if scratch.store.head_of(path, &Patience::new()).await?.is_some() {
            return lacks("they are answered as deleted, and are there");
        }
    }
    holds(format!("up to {batch} with one request"))
}

pub(super) async fn clock(scratch: &Scratch<'_>) -> Answer {
    let (path, data) = (scratch.path("clock"), scratch.data(10));
    let seconds = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let before = seconds();
    scratch.put(&path, &data).await?;
    let after = seconds();
    let objects = &scratch.store.backend().objects;
    let head = || objects.get_opts(&path, GetOptions { head: true, ..GetOptions::default() });
    let (got, _) = scratch.store.line().until_answered(0, &Patience::new(), head).await?;
    let there = got.meta.last_modified.timestamp();
    // Between the two it agrees.
    let skew = if there < before { there - before } else { (there - after).max(0) };
    let detail = format!("its clock is {skew:+} s from this one");
    if skew.abs() <= SKEW_MAX_S { holds(detail) } else { lacks(detail) }
}

// Bytes per second of as many of `calls` as are done in a fifth of the time that a check has.
async fn rate<F>(calls: impl Iterator<Item = F>, each: u64) -> Result<Option<f64>, Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let begun = Instant::now();
    let until = begun + Duration::from_secs(5);
    let mut calls: futures::stream::FuturesUnordered<F> = calls.collect();
    let mut done = 0;
    loop {
        match tokio::time::timeout_at(until, calls.next()).await {
            Ok(Some(Ok(()))) => done += each,
            Ok(Some(Err(failure))) => return Err(failure),
            Ok(None) | Err(_) => break,
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok((done > 0).then(|| done as f64 / seconds.max(1e-6)))
}

fn speed(rate: Option<f64>) -> Answer {
    match rate {
        Some(rate) => holds(format!("{:.0} MB/s in {STREAMS} streams", rate / 1e6)),
        None => lacks("not 8 MiB in 5 s"),
    }
}

pub(super) async fn writes(scratch: &Scratch<'_>, bytes_per_second: &mut Option<f64>) -> Answer {
    let data = scratch.data(LEAF_BYTES as usize);
    let paths: Vec<Path> = (0..STREAMS).map(|at| scratch.path(&format!("speed-{at}"))).collect();
    let data = &data;
    let puts = paths.iter().map(|path| async move { scratch.put(path, data).await.map(|_| ()) });
    *bytes_per_second = rate(puts, LEAF_BYTES).await?;
    speed(*bytes_per_second)
}

pub(super) async fn reads_back(scratch: &Scratch<'_>, bytes_per_second: &mut Option<f64>) -> Answer {
    // What of it was not written in time cannot be read.
    let there = scratch.list(scratch.folder()).await?;
    let paths: Vec<Path> = (0..STREAMS).map(|at| scratch.path(&format!("speed-{at}"))).collect();
    let gets = paths.iter().filter(|path| there.contains(path)).map(|path| async move {
        scratch.store.range(path, 0..LEAF_BYTES, &Patience::new()).await.map(|_| ())
    });
    *bytes_per_second = rate(gets, LEAF_BYTES).await?;
    speed(*bytes_per_second)
}

/// Writes what [`keeps`] looks at when a minute has passed.
pub(super) async fn keep(scratch: &Scratch<'_>) -> Result<(Instant, Bytes), Failure> {
    let data = scratch.data(1000);
    scratch.put(&scratch.path("kept"), &data).await?;
    Ok((Instant::now(), data))
}

pub(super) async fn keeps(scratch: &Scratch<'_>, kept: Option<&(Instant, Bytes)>) -> Answer {
    let Some((written, data)) = kept else {
        return Err(Failure::new(Kind::Broken, "it could not be written"));
    };
    sleep_until(*written + KEPT_FOR).await;
    match scratch.get(&scratch.path("kept"), 2000).await? {
        Some(got) if got == data => holds(""),
        Some(_) => lacks("it is another file"),
        None => lacks("it is gone"),
    }
}

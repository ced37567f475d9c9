//! `rm JOB@EPOCH...`: ends epochs by hand. All are looked up before the first of them goes.

use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal, Write};

use client::{Client, Code, Failure, pb};
use serde_json::{Value, json};

use super::output::{Output, failure_json};
use super::target::Target;
use crate::units;

/// Arguments of `rm`.
#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// JOB@EPOCH; the epoch must be named. Of several none goes before all were looked up
    #[arg(required = true, value_name = "JOB@EPOCH")]
    targets: Vec<Target>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Why, for the record
    #[arg(long, default_value = "")]
    reason: String,
}

/// An epoch that is to go, and what became of that.
struct Wanted {
    epoch: pb::Epoch,
    /// Epochs that depend on it, by their own word, and stay.
    dependents: Vec<String>,
    /// More than these depend on it, than an answer names.
    more_dependents: bool,
    fate: Fate,
    failure: Option<Failure>,
}

/// What is known of an epoch that is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is there, and nothing that was sent removes it.
    Stays,
    Removed,
    /// It was gone before: its number is spent.
    Gone,
    /// Its removal was sent, and nobody has answered.
    Unknown,
}

/// Runs the command.
pub async fn run(args: &RmArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    if let Some(whole) = args.targets.iter().find(|target| target.which.is_none()) {
        return Err(Failure::new(Code::Usage, "which epoch? nothing was removed")
            .what(format!("rm {whole}"))
            .why("a whole job is never removed at once")
            .fix(format!(
                "write {0}@EPOCH; once it has none, `epochlog job rm {0}` forgets the job",
                whole.job
            )));
    }
    let mut all: Vec<Wanted> = Vec::new();
    for target in &args.targets {
        let found = look_up(target, args.targets.len() > 1, client).await?;
        // By another name, or twice.
        if all.iter().all(|other| other.name() != found.name()) {
            all.push(found);
        }
    }
    if all.iter().all(|wanted| wanted.fate == Fate::Gone) {
        return Err(all_gone(&all));
    }
    // Who goes as well misses nothing.
    let names: BTreeSet<String> = all.iter().map(Wanted::name).collect();
    for wanted in &mut all {
        wanted.dependents.retain(|name| !names.contains(name));
    }
    if !args.dry_run && !args.yes {
        ask(&all)?;
    }
    if !args.dry_run {
        remove(&mut all, &args.reason, client).await;
    }
    tell(&all, args.dry_run, output);
    failure(&all).map_or(Ok(()), Err)
}

/// Of several, one that is gone keeps none of the others: whoever repeats a command of which nobody has heard the end gets
/// on.
async fn look_up(target: &Target, of_several: bool, client: &Client) -> Result<Wanted, Failure> {
    let request = pb::ShowRequest {
        job: target.job.to_string(),
        which: Some(target.to_pb()),
        dependents: true,
        or_gone: of_several,
        ..Default::default()
    };
    let reply = client.show(request).await.map_err(|failure| nothing_removed(target, failure))?;
    let fate = if reply.gone { Fate::Gone } else { Fate::Stays };
    Ok(Wanted {
        epoch: reply.epoch.unwrap_or_default(),
        dependents: reply.dependents,
        more_dependents: reply.more_dependents,
        fate,
        failure: None,
    })
}

/// One record each. What one of them cannot, the next may; where nobody answers there is no use in asking on.
async fn remove(all: &mut [Wanted], reason: &str, client: &Client) {
    for wanted in all.iter_mut().filter(|wanted| wanted.fate == Fate::Stays) {
        let request = pb::ExpireRequest {
            job: wanted.epoch.job.clone(),
            epochs: vec![wanted.epoch.epoch],
            reason: reason.to_owned(),
        };
        match client.expire(request).await {
            Ok(_) => wanted.fate = Fate::Removed,
            Err(failure) => {
                if failure.code == Code::Timeout {
                    wanted.fate = Fate::Unknown;
                }
                let unanswered = failure.is_transient();
                wanted.failure = Some(failure);
                if unanswered {
                    return;
                }
            }
        }
    }
}

fn tell(all: &[Wanted], dry_run: bool, output: &Output) {
    if output.is_json() {
        let mut summary = json!({
            "type": "summary",
            "removed": all_removed(all),
            "targets": all.iter().map(Wanted::json).collect::<Vec<_>>(),
        });
        if let [one] = all {
            summary["job"] = one.epoch.job.clone().into();
            summary["epoch"] = one.epoch.epoch.into();
            summary["bytes"] = one.epoch.bytes.into();
        }
        output.outcome(summary);
        return;
    }
    let verb = if dry_run { "would remove" } else { "removed" };
    for wanted in all {
        match wanted.fate {
            Fate::Gone => {
                output.note(format!("{} was gone already", wanted.name()));
                continue;
            }
            Fate::Removed => {}
            Fate::Stays | Fate::Unknown if dry_run => {}
            Fate::Stays | Fate::Unknown => continue,
        }
        let epoch = &wanted.epoch;
        output.line(format!("{verb} {}  {}, {} files", wanted.name(), units::size(epoch.bytes), epoch.files));
        if let Some(depend) = wanted.depend() {
            output.note(depend);
        }
    }
}

/// Whether all are removed; nothing where that of one is unknown.
fn all_removed(all: &[Wanted]) -> Option<bool> {
    all.iter().try_fold(true, |so_far, wanted| Some(so_far & wanted.removed()?))
}

/// What went wrong, in one failure: that of the first that is still there, or may be.
fn failure(all: &[Wanted]) -> Option<Failure> {
    let (first, failure) = all.iter().find_map(|wanted| Some((wanted, wanted.failure.clone()?)))?;
    if all.len() == 1 {
        return Some(failure);
    }
    let (removed, left): (Vec<_>, Vec<_>) = all.iter().partition(|wanted| wanted.removed() == Some(true));
    let left: Vec<String> = left.into_iter().map(Wanted::name).collect();
    let why = format!("{}: {}: {}", first.name(), failure.sentence, failure.why);
    let sentence = format!("{} of {} epochs are known to be removed", removed.len(), all.len());
    Some(Failure { sentence, ..failure }.what(format!("rm {}", left.join(" "))).why(why))
}

impl Wanted {
    fn name(&self) -> String {
        format!("{}@{}", self.epoch.job, self.epoch.epoch)
    }

    /// Whether it is there no more; nothing where that is unknown.
    fn removed(&self) -> Option<bool> {
        match self.fate {
            Fate::Stays => Some(false),
            Fate::Removed | Fate::Gone => Some(true),
            Fate::Unknown => None,
        }
    }

    /// What the person who removes it should know. Whether those that an answer does not name go as well nobody can say.
    fn depend(&self) -> Option<String> {
        let (names, name) = (self.dependents.join(", "), self.name());
        match (self.dependents.len(), self.more_dependents) {
            (0, false) => None,
            (0, true) => Some(format!("more epochs than are named here depend on {name}")),
            (1, false) => Some(format!("{names} depends on {name}")),
            (_, false) => Some(format!("{names} depend on {name}")),
            (_, true) => Some(format!("{names} and more depend on {name}")),
        }
    }

    fn json(&self) -> Value {
        let mut value = json!({
            "job": self.epoch.job,
            "epoch": self.epoch.epoch,
            "bytes": self.epoch.bytes,
            "removed": self.removed(),
            "dependents": self.dependents,
            "more_dependents": self.more_dependents,
        });
        if self.fate == Fate::Gone {
            value["gone_before"] = true.into();
        }
        if let Some(failure) = &self.failure {
            value["error"] = failure_json(failure);
        }
        value
    }
}

/// The failure to look an epoch up, of somebody who wants it removed.
fn nothing_removed(target: &Target, failure: Failure) -> Failure {
    // No record was proposed: whatever became of the question, the epoch is as it was.
    let code = if failure.code == Code::Timeout { Code::Unavailable } else { failure.code };
    let sentence = match code {
        Code::NoQuorum => "no quorum, nothing was removed".to_owned(),
        _ => format!("{}, nothing was removed", failure.sentence),
    };
    Failure { code, sentence, what: format!("rm {target}"), ..failure }
}

/// Nothing of what was named is there.
fn all_gone(all: &[Wanted]) -> Failure {
    let names: Vec<String> = all.iter().map(Wanted::name).collect();
    Failure::new(Code::NotFound, "there are no such epochs, nothing was removed")
        .what(format!("rm {}", names.join(" ")))
        .why("their numbers are spent: they were removed before, or never committed")
        .fix("`epochlog ls` lists what there is")
}

fn ask(all: &[Wanted]) -> Result<(), Failure> {
    let what = || format!("rm {}", all.iter().map(Wanted::name).collect::<Vec<_>>().join(" "));
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(Code::Usage, "nothing was removed")
            .what(what())
            .why("there is no terminal to ask on")
            .fix("give --yes to remove without being asked"));
    }
    match said_yes(&question(all)) {
        true => Ok(()),
        false => Err(declined("nothing was removed", what())),
    }
}

fn question(all: &[Wanted]) -> String {
    let there = all.iter().filter(|wanted| wanted.fate != Fate::Gone);
    let named = there.map(|wanted| {
        let newest = if wanted.epoch.newest { ", the NEWEST epoch of its job" } else { "" };
        format!("{} ({}{newest})", wanted.name(), units::size(wanted.epoch.bytes))
    });
    let named: Vec<String> = named.collect();
    let depend: String = all.iter().filter_map(Wanted::depend).map(|depend| format!("{depend}; ")).collect();
    format!("{depend}remove {} from all nodes?", named.join(" and "))
}

/// What somebody is told who has said no: that it was heard, and no advice.
pub fn declined(sentence: &str, what: impl Into<String>) -> Failure {
    Failure::new(Code::Refused, sentence).what(what).why("the answer was no")
}

/// Asks on the terminal; anything but a yes is a no.
pub fn said_yes(question: &str) -> bool {
    let mut stderr = std::io::stderr().lock();
    // Who cannot be asked does not say yes.
    if write!(stderr, "{} [y/N] ", super::screen::cell(question)).and_then(|()| stderr.flush()).is_err() {
        return false;
    }
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    matches!(answer.trim(), "y" | "Y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(job: &str, epoch: u64, newest: bool, dependents: &[&str]) -> Wanted {
        let epoch = pb::Epoch { job: job.into(), epoch, bytes: 3 << 20, newest, ..Default::default() };
        let dependents = dependents.iter().map(|name| (*name).to_owned()).collect();
        Wanted { epoch, dependents, more_dependents: false, fate: Fate::Stays, failure: None }
    }

    #[test]
    fn who_is_asked_sees_the_newest_and_who_depends_on_what_goes() {
        assert_eq!(question(&[wanted("a", 1, false, &[])]), "remove a@1 (3.0 MiB) from all nodes?");
        let two = [wanted("a", 1, false, &["b@1", "b@2"]), wanted("a", 2, true, &["c@7"])];
        assert_eq!(
            question(&two),
            "b@1, b@2 depend on a@1; c@7 depends on a@2; remove a@1 (3.0 MiB) and a@2 (3.0 MiB, the NEWEST epoch of its \
             job) from all nodes?"
        );
    }

    #[test]
    fn of_several_the_failure_counts_and_of_one_it_is_its_own() {
        let failed = || Failure::new(Code::NotFound, "there is no such epoch").why("it has gone");
        let one = Wanted { failure: Some(failed()), ..wanted("a", 1, false, &[]) };
        assert_eq!(failure(&[one]).unwrap(), failed());
        let all = [
            Wanted { fate: Fate::Removed, ..wanted("a", 1, false, &[]) },
            Wanted { failure: Some(failed()), ..wanted("a", 2, false, &[]) },
            wanted("a", 3, false, &[]),
        ];
        let told = failure(&all).unwrap();
        assert_eq!(told.code, Code::NotFound);
        assert_eq!(told.sentence, "1 of 3 epochs are known to be removed");
        assert_eq!(
            (told.what.as_str(), told.why.as_str()),
            ("rm a@2 a@3", "a@2: there is no such epoch: it has gone")
        );
        assert!(failure(&all[..1]).is_none());
    }

    #[test]
    fn what_is_gone_is_no_failure_and_what_is_unknown_is_neither_removed_nor_there() {
        let with = |fate, epoch| Wanted { fate, ..wanted("a", epoch, false, &[]) };
        let (gone, unknown) = (with(Fate::Gone, 1), with(Fate::Unknown, 2));
        assert_eq!((gone.removed(), unknown.removed()), (Some(true), None));
        assert_eq!(gone.json()["gone_before"], true);
        assert!(unknown.json()["removed"].is_null());
        let timeout = Failure::new(Code::Timeout, "no answer, it is UNKNOWN whether it was removed");
        let unknown = Wanted { failure: Some(timeout), ..unknown };
        let all = [gone, unknown, with(Fate::Stays, 3)];
        assert_eq!(all_removed(&all), None);
        assert_eq!(all_removed(&all[..1]), Some(true));
        assert_eq!(all_removed(&all[2..]), Some(false));
        let told = failure(&all).unwrap();
        assert_eq!((told.code, told.what.as_str()), (Code::Timeout, "rm a@2 a@3"));
        assert_eq!(
            question(&[with(Fate::Gone, 1), with(Fate::Stays, 3)]),
            "remove a@3 (3.0 MiB) from all nodes?"
        );
    }

    #[test]
    fn dependents_that_no_answer_names_are_not_passed_over() {
        let with = |dependents: &[&str], more_dependents| {
            Wanted { more_dependents, ..wanted("a", 1, false, dependents) }.depend()
        };
        assert_eq!(with(&[], false), None);
        assert_eq!(with(&[], true).unwrap(), "more epochs than are named here depend on a@1");
        assert_eq!(with(&["b@1"], true).unwrap(), "b@1 and more depend on a@1");
    }
}

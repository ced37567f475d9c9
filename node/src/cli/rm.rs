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
    removed: bool,
    failure: Option<Failure>,
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
        let found = look_up(target, client).await?;
        // By another name, or twice.
        if all.iter().all(|other| other.name() != found.name()) {
            all.push(found);
        }
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

async fn look_up(target: &Target, client: &Client) -> Result<Wanted, Failure> {
    let request = pb::ShowRequest {
        job: target.job.to_string(),
        which: Some(target.to_pb()),
        dependents: true,
        ..Default::default()
    };
    let reply = client.show(request).await.map_err(|failure| nothing_removed(target, failure))?;
    let epoch = reply.epoch.unwrap_or_default();
    Ok(Wanted { epoch, dependents: reply.dependents, removed: false, failure: None })
}

/// One record each. What one of them cannot, the next may; where nobody answers there is no use in asking on.
async fn remove(all: &mut [Wanted], reason: &str, client: &Client) {
    for wanted in all {
        let request = pb::ExpireRequest {
            job: wanted.epoch.job.clone(),
            epochs: vec![wanted.epoch.epoch],
            reason: reason.to_owned(),
        };
        match client.expire(request).await {
            Ok(_) => wanted.removed = true,
            Err(failure) => {
                let unanswered = failure.is_transient() || failure.code == Code::Timeout;
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
            "removed": all.iter().all(|wanted| wanted.removed),
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
    for wanted in all.iter().filter(|wanted| dry_run || wanted.removed) {
        let epoch = &wanted.epoch;
        output.line(format!("{verb} {}  {}, {} files", wanted.name(), units::size(epoch.bytes), epoch.files));
        if let Some(depend) = wanted.depend() {
            output.note(depend);
        }
    }
}

/// What went wrong, in one failure: that of the first that is still there, or may be.
fn failure(all: &[Wanted]) -> Option<Failure> {
    let (first, failure) = all.iter().find_map(|wanted| Some((wanted, wanted.failure.clone()?)))?;
    if all.len() == 1 {
        return Some(failure);
    }
    let removed = all.iter().filter(|wanted| wanted.removed).count();
    let left: Vec<String> = all.iter().filter(|wanted| !wanted.removed).map(Wanted::name).collect();
    let why = format!("{}: {}: {}", first.name(), failure.sentence, failure.why);
    let sentence = format!("{removed} of {} epochs are known to be removed", all.len());
    Some(Failure { sentence, ..failure }.what(format!("rm {}", left.join(" "))).why(why))
}

impl Wanted {
    fn name(&self) -> String {
        format!("{}@{}", self.epoch.job, self.epoch.epoch)
    }

    /// What the person who removes it should know.
    fn depend(&self) -> Option<String> {
        let names = self.dependents.join(", ");
        match self.dependents.len() {
            0 => None,
            1 => Some(format!("{names} depends on {}", self.name())),
            _ => Some(format!("{names} depend on {}", self.name())),
        }
    }

    fn json(&self) -> Value {
        let mut value = json!({
            "job": self.epoch.job,
            "epoch": self.epoch.epoch,
            "bytes": self.epoch.bytes,
            "removed": self.removed,
            "dependents": self.dependents,
        });
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
    let named = all.iter().map(|wanted| {
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
        Wanted { epoch, dependents, removed: false, failure: None }
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
            Wanted { removed: true, ..wanted("a", 1, false, &[]) },
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
}

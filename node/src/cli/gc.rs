//! `gc --objects NAME`: what lies in an object store, by what the log says of it; with `--yes` what attempts that have ended
//! left there is deleted. What is printed is what is deleted: the node makes one plan, tells it, and goes by it.

use client::{Client, Code, Failure, pb};
use pb::gc_reply::Kind;
use serde_json::{Value, json};

use super::output::{Output, failure_json};
use super::screen;
use crate::units;

/// Arguments of `gc`.
#[derive(Debug, clap::Args)]
pub struct GcArgs {
    /// The object store, as [disk.NAME] of the nodes' configuration calls it
    #[arg(long, value_name = "NAME", required = true)]
    objects: String,
    /// Delete the garbage and end its uploads; without it nothing is changed
    #[arg(short, long)]
    yes: bool,
}

/// What is said of each class.
const CLASSES: [(&str, &str); 5] = [
    ("referenced", "an epoch needs it"),
    ("released", "nobody needs it: the leader deletes it by itself after the grace period"),
    ("open", "of a commit that is under way"),
    ("garbage", "of a commit that has ended, and nothing names it"),
    ("foreign", "no name of this cluster's log: never touched"),
];

/// What the node told.
#[derive(Debug, Default)]
struct Told {
    plan: Option<pb::GcPlan>,
    garbage: Vec<String>,
    done: Option<pb::GcDone>,
}

/// Runs the command.
pub async fn run(args: &GcArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let what = format!("gc --objects {}", args.objects);
    let request = pb::GcRequest { store: args.objects.clone(), act: args.yes, direct: false };
    let mut told = Told::default();
    let mut each = |kind| match kind {
        Kind::Plan(plan) => {
            if !output.is_json() {
                output.line(table(&plan));
                notes(&plan).into_iter().for_each(|note| output.note(note));
            }
            told.plan = Some(plan);
        }
        Kind::Garbage(keys) => {
            for key in &keys.keys {
                output.progress(&json!({ "type": "garbage", "key": key }));
            }
            told.garbage.extend(keys.keys);
        }
        Kind::Done(done) => told.done = Some(done),
        Kind::Working(_) => {}
    };
    let ended = client.gc(request, &mut each).await;
    let Some(plan) = &told.plan else {
        return Err(ended.err().unwrap_or_else(|| broke_off(&what)));
    };
    output.outcome(json_of(plan, &told));
    ended?;
    let garbage = count(&plan.objects, "garbage") + count(&plan.uploads, "garbage");
    let Some(done) = told.done else {
        return match args.yes {
            true => Err(broke_off(&what)),
            false => {
                if garbage > 0 {
                    output.note("nothing was changed: repeat with --yes to delete the garbage");
                }
                Ok(())
            }
        };
    };
    if !output.is_json() {
        output.line(format!(
            "deleted {} objects, {}; ended {} uploads",
            done.deleted,
            units::size(done.deleted_bytes),
            done.uploads_ended
        ));
    }
    match done.failed {
        Some(failed) => {
            let mut failure = Failure::from_pb(failed);
            failure.sentence = format!("{}; {} of {garbage} are there still", failure.sentence, done.left);
            Err(failure)
        }
        None => Ok(()),
    }
}

fn broke_off(what: &str) -> Failure {
    Failure::new(Code::Unavailable, "the node broke off")
        .what(what)
        .why("its answer ended before all was told")
        .fix("repeat the command: what is deleted is not deleted twice")
}

fn count(classes: &[pb::ClassOfObjects], class: &str) -> u64 {
    classes.iter().find(|of| of.class == class).map_or(0, |of| of.count)
}

fn table(plan: &pb::GcPlan) -> String {
    let row = |cells: [&str; 5]| cells.map(str::to_owned).to_vec();
    let mut rows = vec![row(["CLASS", "OBJECTS", "BYTES", "OPEN UPLOADS", "WHAT IT IS"])];
    for of in &plan.objects {
        let uploads = match plan.uploads_unknown.is_empty() {
            true => count(&plan.uploads, &of.class).to_string(),
            false => "?".to_owned(),
        };
        let words = CLASSES.iter().find(|(class, _)| *class == of.class).map_or("", |(_, words)| words);
        let (many, bytes) = (of.count.to_string(), units::size(of.bytes));
        rows.push(row([of.class.as_str(), many.as_str(), bytes.as_str(), uploads.as_str(), words]));
    }
    screen::table(&rows)
}

/// What the table does not say.
fn notes(plan: &pb::GcPlan) -> Vec<String> {
    let mut notes = vec![format!(
        "the store {}, as node {}, which leads, has found it at log index {}",
        plan.store, plan.node, plan.applied
    )];
    if !plan.uploads_unknown.is_empty() {
        notes.push(format!("the store does not tell its open uploads: {}", plan.uploads_unknown));
    }
    if plan.cut {
        notes.push(
            "there is more in the store than one plan counts: repeat the command when this is done".into(),
        );
    }
    let examples = |classes: &[pb::ClassOfObjects], what: &str| {
        let told = classes.iter().filter(|of| !of.examples.is_empty());
        told.map(|of| {
            let more = of.count.saturating_sub(of.examples.len() as u64);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            format!("{} {what}: {}{more}", of.class, of.examples.join(", "))
        })
        .collect::<Vec<_>>()
    };
    notes.extend(examples(&plan.objects, "objects"));
    notes.extend(examples(&plan.uploads, "uploads"));
    notes
}

fn json_of(plan: &pb::GcPlan, told: &Told) -> Value {
    let classes = |classes: &[pb::ClassOfObjects], with_bytes: bool| {
        let one = |of: &pb::ClassOfObjects| {
            let value = match with_bytes {
                true => json!({ "count": of.count, "bytes": of.bytes }),
                false => json!({ "count": of.count }),
            };
            (of.class.clone(), value)
        };
        Value::Object(classes.iter().map(one).collect())
    };
    let uploads = plan.uploads_unknown.is_empty().then(|| classes(&plan.uploads, false));
    let mut value = json!({
        "type": "summary",
        "store": plan.store,
        "node": plan.node,
        "applied": plan.applied,
        "objects": classes(&plan.objects, true),
        "uploads": uploads,
        "cut": plan.cut,
        "garbage": told.garbage,
        "acted": told.done.is_some(),
    });
    if !plan.uploads_unknown.is_empty() {
        value["uploads_unknown"] = plan.uploads_unknown.clone().into();
    }
    if let Some(done) = &told.done {
        value["deleted"] = done.deleted.into();
        value["deleted_bytes"] = done.deleted_bytes.into();
        value["uploads_ended"] = done.uploads_ended.into();
        value["left"] = done.left.into();
        if let Some(failed) = &done.failed {
            value["error"] = failure_json(&Failure::from_pb(failed.clone()));
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(class: &str, count: u64, examples: &[&str]) -> pb::ClassOfObjects {
        let examples = examples.iter().map(|key| (*key).to_owned()).collect();
        pb::ClassOfObjects { class: class.into(), count, bytes: count << 20, examples }
    }

    #[test]
    fn a_plan_is_a_table_and_says_what_it_does_not_know() {
        let plan = pb::GcPlan {
            store: "main".into(),
            node: 2,
            applied: 77,
            objects: vec![class("referenced", 12, &[]), class("garbage", 3, &["ab/x", "cd/y"])],
            uploads: vec![class("referenced", 0, &[]), class("garbage", 1, &[])],
            ..Default::default()
        };
        insta::assert_snapshot!(table(&plan), @r"
        CLASS       OBJECTS  BYTES     OPEN UPLOADS  WHAT IT IS
        referenced  12       12.0 MiB  0             an epoch needs it
        garbage     3        3.0 MiB   1             of a commit that has ended, and nothing names it
        ");
        assert_eq!(notes(&plan)[1..], ["garbage objects: ab/x, cd/y, and 1 more"]);
        let unknown = pb::GcPlan { uploads_unknown: "501".into(), ..plan };
        assert!(table(&unknown).contains("3.0 MiB   ?"), "{}", table(&unknown));
        assert!(notes(&unknown)[1].contains("501"));
        let json = json_of(&unknown, &Told::default());
        assert_eq!((&json["objects"]["garbage"]["count"], &json["uploads"]), (&3.into(), &Value::Null));
    }
}

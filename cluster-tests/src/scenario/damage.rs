//! Damage of every kind, planted on one node of a live cluster. Each row of the tables says what is planted and what
//! the node then does: it heals, it waits for `verify --repair`, or it does not start, says what, why and what to do,
//! and is made whole by `repair` or by getting back what was taken. Then all nodes are the same, and everything that
//! was acknowledged is on all of them.

mod content;
mod ledger;
mod log;
pub mod site;

use std::time::Duration;

use crate::cli::Output;
use crate::cluster::{Options, PATIENCE};
use crate::scratch::remove_tree;
use crate::seed::Rng;
use crate::wait::wait_until;
use crate::walk::compare;

pub use content::CONTENT;
pub use ledger::LEDGER;
pub use log::LOG;
pub use site::Site;
use site::copy;

/// How long a node may think before it refuses to start.
const REFUSAL: Duration = Duration::from_secs(30);

/// One kind of damage.
#[derive(Debug)]
pub struct Row {
    /// What is damaged, for people.
    pub name: &'static str,
    /// Plants it. The node is down afterwards, or runs on damaged.
    pub plant: fn(&mut Site, &mut Rng),
    /// What the node does.
    pub expect: Expect,
}

/// What a damaged node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// It starts and is whole by itself.
    Heals,
    /// It serves nothing wrong, and `verify --repair` makes it whole.
    Verify,
    /// It does not start and says this word; `repair` makes it whole.
    Repair(&'static str),
    /// Either of the two: above the log's mark it is found at start, below it as any other rot.
    RepairOrVerify,
    /// It does not start and says this word, and `repair` says no, too. With the bytes back it is itself again.
    PutBack(&'static str),
}

/// Plants each row on a node of a cluster, one after another.
///
/// # Panics
/// When a node does anything else, or is not whole in the end.
pub fn rows(name: &str, rows: &[Row], rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    // Streamed: a stopped client is a stopped upload then.
    let mut site = Site::new(name, Options { by_path: false, ..Options::default() }, rng);
    for row in rows {
        site.next_row(row.name, rng);
        (row.plant)(&mut site, rng);
        let end = site.endure(row, rng);
        site.is_whole(row, rng);
        progress(format!("{}: {end}", row.name));
    }
}

impl Site {
    /// What the node does with the damage, and what is done about it. In words, what happened.
    fn endure(&mut self, row: &Row, rng: &mut Rng) -> String {
        let id = self.victim;
        let was_down = self.cluster.node(id).pid().is_none();
        if was_down {
            // Life goes on without it.
            self.commit(rng);
            self.from = self.said_bytes();
            self.cluster.restart(id);
        }
        match row.expect {
            Expect::Heals => {
                self.cluster.wait_node_ready(id);
                "heals by itself".into()
            }
            Expect::Verify => self.verified(rng),
            Expect::Repair(word) => {
                self.refuses(row, word);
                self.repaired(row)
            }
            Expect::RepairOrVerify => {
                let refused = wait_until(REFUSAL, "the node to start or to refuse", || {
                    if !self.cluster.is_running(id) {
                        return Ok(true);
                    }
                    match self.cluster.node(id).get("/readyz") {
                        Ok((200, _)) => Ok(false),
                        other => Err(format!("{other:?}")),
                    }
                });
                if !refused {
                    return self.verified(rng);
                }
                self.refuses(row, "damaged");
                self.repaired(row)
            }
            Expect::PutBack(word) => {
                self.refuses(row, word);
                let output = self.repair();
                assert_ne!(output.code, Some(0), "{}: repaired without what binds it: {output}", row.name);
                self.put_back();
                self.cluster.restart(id);
                "refuses to start and to be repaired".into()
            }
        }
    }

    /// The node ends with an error and says what, why, what to do, and this word.
    fn refuses(&mut self, row: &Row, word: &str) {
        let status = self.cluster.wait_exit(self.victim, REFUSAL);
        assert!(!status.success(), "{}: it ended with {status}", row.name);
        let said = self.said();
        for wanted in ["error:", "what ", "why ", "do ", word] {
            assert!(said.contains(wanted), "{}: {wanted:?} is missing in\n{said}", row.name);
        }
        if matches!(row.expect, Expect::Repair(_) | Expect::RepairOrVerify) {
            assert!(said.contains("epochlog repair"), "{}: it does not say how to go on:\n{said}", row.name);
        }
        // Two of three are a quorum.
        let others = self.cluster.first(self.victim).split_off(1);
        let output = self.cluster.cli_at(&others, &["status", "--timeout", "10s"]);
        assert_eq!(output.code, Some(0), "{}: the others are no cluster any more: {output}", row.name);
    }

    fn repaired(&mut self, row: &Row) -> String {
        let output = self.repair();
        assert_eq!(output.code, Some(0), "{}: {output}", row.name);
        self.cluster.restart(self.victim);
        format!("refuses to start, is repaired in {:.1?}", output.took)
    }

    /// `epochlog repair` with the node's own configuration.
    fn repair(&self) -> Output {
        let config = self.cluster.node(self.victim).config.clone();
        self.cluster.shell.spawn(&["repair".as_ref(), "--config".as_ref(), config.as_os_str()]).wait()
    }

    /// The node serves nothing wrong, reuses nothing wrong, and is whole after `verify --repair`.
    fn verified(&mut self, rng: &mut Rng) -> String {
        let id = self.victim;
        self.cluster.wait_node_ready(id);
        let uploaded = self.finish_upload(rng);
        let commits = if uploaded { &mut self.uploads } else { &mut self.commits };
        let epoch = if uploaded { commits.epoch } else { self.damaged_epoch };
        let source = commits.sources[&epoch].clone();
        let name = format!("{}@{epoch}", commits.job);
        let to = self.cluster.folder().join("restored").join(format!("{name}-after-damage"));
        let args = ["restore".as_ref(), name.as_ref(), "--to".as_ref(), to.as_os_str()];
        let output = self.cluster.cli_at(&[id], &args);
        // Through this node alone: the right bytes, or the truth.
        match output.code {
            Some(0) => {
                compare(&source, &to)
                    .unwrap_or_else(|difference| panic!("{name} restored from node {id}: {difference}"));
                remove_tree(&to).expect("a restored directory can be removed");
            }
            Some(6 | 7) => assert!(!to.exists(), "a failed restore leaves nothing: {output}"),
            _ => panic!("{output}"),
        }
        // The same content once more: nothing but references travels, to content that has rotted here.
        commits.commit(rng, |at, _| copy(&source, at));
        let (job, newest) = (commits.job.clone(), commits.epoch);
        self.cluster.wait_published(&job, newest);
        let output = self.cluster.cli(&["verify", "--all-nodes", "--repair", "--timeout", "60s"]);
        assert_eq!(output.code, Some(0), "verify --repair: {output}");
        "serves nothing wrong, whole after verify --repair".into()
    }

    /// All nodes are the same, as the product says and as our own walk says.
    fn is_whole(&mut self, row: &Row, rng: &mut Rng) {
        self.finish_upload(rng);
        self.cluster.wait_ready();
        self.cluster.wait_alike();
        // What heals in the background gets its time; the checks below are the judges.
        wait_until(PATIENCE, &format!("everything to verify after: {}", row.name), || {
            let output = self.cluster.cli(&["verify", "--all-nodes", "--timeout", "60s"]);
            if output.code == Some(0) { Ok(()) } else { Err(output) }
        });
        self.commits.check(&self.cluster);
        self.uploads.check_if_any(&self.cluster);
    }
}

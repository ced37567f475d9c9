//! What a check found out about a store.

use std::fmt;
use std::time::Duration;

/// One thing that is found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// What is written can be read again, and deleted.
    Access,
    /// A create of a key that is there is refused.
    Create,
    /// Of many creates of one key at once, one wins.
    CreateRaced,
    /// A body that changed on its way is refused.
    Refuses,
    /// The checksum of an object is reported.
    Reports,
    /// A range of an object is served as such.
    Ranges,
    /// A listing shows at once what was written and deleted.
    Lists,
    /// Parts are put together, and a second complete changes nothing.
    Parts,
    /// A complete that comes late does not bring back what was deleted.
    LateComplete,
    /// The checksum of an object in parts is reported as of the whole.
    ReportsWhole,
    /// Open uploads are listed.
    Uploads,
    /// Many keys are deleted with one request.
    DeletesMany,
    /// The clocks agree.
    Clock,
    /// How fast it writes.
    Writes,
    /// How fast it reads.
    Reads,
    /// A file is still the same after a minute (of a folder).
    Keeps,
}

/// What came of one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is so.
    Holds,
    /// It is not so.
    Lacks,
    /// It could not be found out.
    Unknown,
    /// It is no matter with this kind of store.
    NotAsked,
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was asked.
    pub probe: Probe,
    /// What came of it.
    pub verdict: Verdict,
    /// What was seen.
    pub detail: String,
}

/// What a check found out. `Display` is the table for people.
#[derive(Clone, Debug)]
pub struct Report {
    /// What the store is called, and where it is.
    pub store: String,
    /// One for each probe, in a fixed order.
    pub findings: Vec<Finding>,
    /// How fast it takes eight objects of 8 MiB at once, bytes per second.
    pub write_bytes_per_second: Option<f64>,
    /// How fast it gives them back, bytes per second.
    pub read_bytes_per_second: Option<f64>,
    /// What the check wrote and could not remove.
    pub left: Option<String>,
    /// How long it took.
    pub took: Duration,
}

impl Probe {
    /// All of them, in the order of a report.
    pub const ALL: [Probe; 16] = [
        Probe::Access,
        Probe::Create,
        Probe::CreateRaced,
        Probe::Refuses,
        Probe::Reports,
        Probe::Ranges,
        Probe::Lists,
        Probe::Parts,
        Probe::LateComplete,
        Probe::ReportsWhole,
        Probe::Uploads,
        Probe::DeletesMany,
        Probe::Clock,
        Probe::Writes,
        Probe::Reads,
        Probe::Keeps,
    ];

    /// What it is called in a table.
    pub fn name(self) -> &'static str {
        match self {
            Probe::Access => "reads what was written",
            Probe::Create => "refuses to create twice",
            Probe::CreateRaced => "refuses to create twice at once",
            Probe::Refuses => "refuses a changed body",
            Probe::Reports => "reports checksums",
            Probe::Ranges => "serves ranges",
            Probe::Lists => "lists what is there",
            Probe::Parts => "puts parts together once",
            Probe::LateComplete => "keeps deleted what was deleted",
            Probe::ReportsWhole => "reports checksums of the whole",
            Probe::Uploads => "lists open uploads",
            Probe::DeletesMany => "deletes many at once",
            Probe::Clock => "agrees on the time",
            Probe::Writes => "writes",
            Probe::Reads => "reads",
            Probe::Keeps => "keeps for a minute",
        }
    }

    /// Whether epochs cannot be kept in a store that lacks it.
    pub fn is_needed(self) -> bool {
        matches!(self, Probe::Access | Probe::Ranges | Probe::Lists | Probe::Parts | Probe::Keeps)
    }

    /// What follows when it is lacking.
    pub fn without(self) -> &'static str {
        match self {
            Probe::Access | Probe::Ranges | Probe::Lists | Probe::Parts | Probe::Keeps => {
                "not fit for epochs"
            }
            Probe::Create => "write conditional_put = \"disabled\": lost answers then cost a new key",
            Probe::CreateRaced => "not fit for shared mode",
            Probe::Refuses | Probe::Reports | Probe::ReportsWhole => {
                "objects are read back after they are written"
            }
            Probe::LateComplete => "an object may come back after its delete; gc finds it",
            Probe::Uploads => "uploads that a kill left open must be ended by a rule of the bucket",
            Probe::DeletesMany => "write disable_bulk_delete = true: each key takes a request",
            Probe::Clock => "set the clocks: signed requests are refused past 15 min",
            Probe::Writes | Probe::Reads => "epochs will be slow",
        }
    }
}

impl Report {
    /// What came of a probe.
    pub fn verdict(&self, probe: Probe) -> Verdict {
        let found = self.findings.iter().find(|finding| finding.probe == probe);
        found.map_or(Verdict::Unknown, |finding| finding.verdict)
    }

    /// Whether epochs can be kept there: nothing that is needed is lacking or unknown.
    pub fn is_fit(&self) -> bool {
        let needed = Probe::ALL.into_iter().filter(|probe| probe.is_needed());
        needed.map(|probe| self.verdict(probe)).all(|v| matches!(v, Verdict::Holds | Verdict::NotAsked))
    }

    /// Whether several writers without a cluster can share it: of creates at once one wins, always.
    pub fn is_fit_for_shared_mode(&self) -> bool {
        self.is_fit() && self.verdict(Probe::CreateRaced) == Verdict::Holds
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fit = if self.is_fit() { "fit for epochs" } else { "NOT fit for epochs" };
        writeln!(f, "{}: {fit}, found out in {} s", self.store, self.took.as_secs())?;
        for Finding { probe, verdict, detail } in &self.findings {
            let word = match verdict {
                Verdict::Holds => "yes",
                Verdict::Lacks if probe.is_needed() => "NO",
                Verdict::Lacks => "no",
                Verdict::Unknown => "?",
                Verdict::NotAsked => "-",
            };
            write!(f, "  {word:<4}{:<34}{detail}", probe.name())?;
            match verdict {
                Verdict::Lacks => writeln!(f, "; {}", probe.without())?,
                _ => writeln!(f)?,
            }
        }
        match &self.left {
            Some(left) => writeln!(f, "  what the check wrote is still there, remove it: {left}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lacks: &[Probe]) -> Report {
        let finding = |probe: Probe| Finding {
            probe,
            verdict: if lacks.contains(&probe) { Verdict::Lacks } else { Verdict::Holds },
            detail: "seen".into(),
        };
        Report {
            store: "store \"main\" at s3://b/p".into(),
            findings: Probe::ALL.into_iter().map(finding).collect(),
            write_bytes_per_second: None,
            read_bytes_per_second: None,
            left: None,
            took: Duration::from_secs(7),
        }
    }

    #[test]
    fn a_table_says_what_follows_from_what_is_lacking() {
        let whole = report(&[]);
        assert!(whole.is_fit() && whole.is_fit_for_shared_mode());
        assert_eq!(whole.to_string().lines().count(), 1 + Probe::ALL.len());
        let raced = report(&[Probe::CreateRaced]);
        assert!(raced.is_fit() && !raced.is_fit_for_shared_mode());
        assert!(
            raced
                .to_string()
                .contains("\n  no  refuses to create twice at once   seen; not fit for shared mode\n")
        );
        let ranges = report(&[Probe::Ranges]);
        assert!(!ranges.is_fit() && ranges.to_string().contains("NOT fit for epochs, found out in 7 s\n"));
        let none = Report { findings: Vec::new(), ..whole };
        assert!(!none.is_fit(), "what was not found out is not known to hold");
    }
}

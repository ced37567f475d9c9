use super::*;
use crate::check::{self, Probe, Report, Verdict};

async fn report(s3: &ScriptedS3, faults: &Faults) -> Report {
    let store = open(&ScriptedS3::config("p/q"), check::limits(), s3, faults).unwrap();
    check::check_store(&store, "store \"main\"".into()).await
}

fn lacking(report: &Report) -> Vec<Probe> {
    Probe::ALL.into_iter().filter(|probe| report.verdict(*probe) == Verdict::Lacks).collect()
}

#[tokio::test(start_paused = true)]
async fn a_store_as_it_should_be_is_fit_and_nothing_of_the_check_stays() {
    let s3 = ScriptedS3::new(Traits { page: 2, ..Traits::default() });
    s3.plant("p/q/notes.txt", "x");
    let report = report(&s3, &Faults::new()).await;
    for probe in Probe::ALL {
        let wanted = if probe == Probe::Keeps { Verdict::NotAsked } else { Verdict::Holds };
        assert_eq!(report.verdict(probe), wanted, "{report}");
    }
    assert!(report.is_fit() && report.is_fit_for_shared_mode());
    assert!(report.write_bytes_per_second.is_some() && report.read_bytes_per_second.is_some());
    assert_eq!(report.left, None);
    assert_eq!(s3.keys(), ["p/q/notes.txt"]);
    assert_eq!(s3.uploads(), []);
    assert!(report.took <= Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn an_upload_of_the_check_whose_id_never_arrived_is_ended() {
    let (s3, faults) = (ScriptedS3::default(), Faults::new());
    faults.next(Verb::CreateUpload, When::After, Fault::Cut);
    report(&s3, &faults).await;
    assert_eq!(faults.hits(), 1);
    assert_eq!(s3.uploads(), []);
}

#[tokio::test(start_paused = true)]
async fn every_planted_defect_is_found_and_no_other() {
    let good = Traits::default();
    for (traits, defects) in [
        (Traits { conditional: false, ..good }, vec![Probe::Create, Probe::CreateRaced]),
        (Traits { races: true, ..good }, vec![Probe::CreateRaced]),
        (Traits { checks: false, ..good }, vec![Probe::Refuses]),
        (Traits { reports: false, ..good }, vec![Probe::Reports, Probe::ReportsWhole]),
        (Traits { ranges: false, ..good }, vec![Probe::Ranges]),
        (Traits { lists_late: true, ..good }, vec![Probe::Lists]),
        (Traits { loses_tails: true, ..good }, vec![Probe::Parts, Probe::ReportsWhole]),
        (Traits { revives: true, ..good }, vec![Probe::LateComplete]),
        (Traits { lists_uploads: false, ..good }, vec![Probe::Uploads]),
        (Traits { clock_ahead_s: 3600, ..good }, vec![Probe::Clock]),
        (Traits { clock_ahead_s: -3600, ..good }, vec![Probe::Clock]),
    ] {
        let report = report(&ScriptedS3::new(traits), &Faults::new()).await;
        let missed = defects.iter().filter(|probe| report.verdict(**probe) != Verdict::Lacks).count();
        assert_eq!(missed, 0, "{traits:?}\n{report}");
        // A store without ranges is not read by ranges elsewhere either.
        if traits.ranges {
            assert_eq!(lacking(&report), defects, "{traits:?}\n{report}");
        }
        assert_eq!(report.is_fit(), !defects.iter().any(|probe| probe.is_needed()), "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_ends_in_time_whatever_the_store_does() {
    for verb in [None, Some(Verb::Part), Some(Verb::Put), Some(Verb::Get), Some(Verb::Head), Some(Verb::List)]
    {
        for fault in [Fault::Stall, Fault::Answer(503, "SlowDown", Some(3)), Fault::Cut] {
            let faults = Faults::new();
            faults.add(Rule { verb, skip: 0, times: 1 << 20, when: When::Before, fault });
            let report = report(&ScriptedS3::default(), &faults).await;
            assert!(report.took <= Duration::from_secs(30), "{verb:?} {report}");
            assert!(!report.is_fit(), "{verb:?} {report}");
            assert!(faults.hits() > 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_folder_is_looked_at_for_a_minute() {
    let dir = tempfile::tempdir().unwrap();
    let report = check::check_store(&folder_store(dir.path()), "store \"shared\"".into()).await;
    assert!(report.is_fit() && report.is_fit_for_shared_mode(), "{report}");
    assert_eq!(report.verdict(Probe::Keeps), Verdict::Holds, "{report}");
    assert_eq!(lacking(&report), [], "{report}");
    assert!((60..76).contains(&report.took.as_secs()), "{report}");
    assert!(walk(dir.path()).is_empty(), "{:?}", walk(dir.path()));
    assert_eq!(std::fs::read_dir(dir.path().join("epochlog-check")).unwrap().count(), 0);
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test(start_paused = true)]
async fn access_is_checked_and_what_is_not_allowed_is_named() {
    let bench = bench(Traits::default());
    bench.store.check_access().await.unwrap();
    assert_eq!(bench.s3.keys(), Vec::<String>::new());
    for (verb, what) in [
        (Verb::Get, "reading the marker"),
        (Verb::Put, "writing"),
        (Verb::List, "listing"),
        (Verb::DeleteBatch, "deleting"),
    ] {
        let fault = Fault::Answer(403, "AccessDenied", None);
        bench.faults.add(Rule { verb: Some(verb), skip: 0, times: 9, when: When::Before, fault });
        let error = bench.store.check_access().await.unwrap_err();
        assert_eq!(error.trouble(), Trouble::Denied, "{error}");
        assert!(error.to_string().contains(what), "{error}");
        bench.faults.clear();
    }
    // What it keeps to is asked last, and is to be asked again.
    let busy = Fault::Answer(503, "SlowDown", None);
    let times = 1 << 20;
    bench.faults.add(Rule { verb: Some(Verb::Put), skip: 1, times, when: When::Before, fault: busy });
    let error = bench.store.check_access().await.unwrap_err();
    assert!(error.may_pass() && error.to_string().contains("what it keeps to"), "{error}");
    assert_eq!(bench.s3.keys(), Vec::<String>::new());
    bench.faults.clear();
    let late = super::bench(Traits { lists_late: true, ..Traits::default() });
    assert_eq!(late.store.check_access().await.unwrap_err().trouble(), Trouble::Damaged);
    let dir = tempfile::tempdir().unwrap();
    folder_store(dir.path()).check_access().await.unwrap();
    assert!(walk(dir.path()).is_empty());
    assert_eq!(std::fs::read_dir(dir.path().join("epochlog-check")).unwrap().count(), 0);
}

//! What a commit is told when nobody can be asked.

use std::time::Duration;

use checkpoint::JobName;

use super::*;
use crate::connect::Options;

/// Nobody listens there.
async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

async fn committed(born: Option<u64>) -> (Failure, Failure) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { timeout: Duration::from_millis(300) };
    let client = Client::new(vec![nobody().await], options);
    let commit = || Commit { born, ..Commit::new(JobName::try_from("job").unwrap()) };
    let asked = client.commit(dir.path(), commit(), &|_| {}).await.unwrap_err();
    let stopped = client.commit_until(dir.path(), commit(), &|_| {}, std::future::ready(()));
    (asked, stopped.await.unwrap_err())
}

#[tokio::test]
async fn a_new_commit_that_reached_nobody_is_not_committed() {
    let (asked, stopped) = committed(None).await;
    assert_eq!(asked.committed, Certainty::No, "{asked}");
    assert_eq!(stopped.committed, Certainty::No, "{stopped}");
}

#[tokio::test]
async fn a_repeat_that_reached_nobody_is_unknown() {
    let (asked, stopped) = committed(Some(7)).await;
    assert_eq!((asked.code, asked.committed), (Code::Timeout, Certainty::Unknown), "{asked}");
    assert_eq!(stopped.committed, Certainty::Unknown, "{stopped}");
    // Not even when its directory is gone.
    let client = Client::new(vec![nobody().await], Options::default());
    let commit = Commit { born: Some(7), ..Commit::new(JobName::try_from("job").unwrap()) };
    let gone = client.commit(Path::new("/nowhere/at/all"), commit, &|_| {}).await.unwrap_err();
    assert_eq!(gone.committed, Certainty::Unknown, "{gone}");
}

//! What README says one can type.

use cluster_tests::scenario::readme;

use crate::story;

#[test]
fn every_command_block_of_the_readme_runs_as_it_stands_there() {
    story("readme", |rng| readme::every_block("readme", rng));
}

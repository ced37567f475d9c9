//! The binary `epochlog`: see `node::cli`.

use std::sync::atomic::Ordering;

use node::cli::output::STDOUT_CLOSED;

/// Before `main` the runtime opens `/dev/null` in place of a stdout that is not there: then nobody can tell any more.
extern "C" fn look_at_stdout() {
    let closed = rustix::io::fcntl_getfd(std::io::stdout()).is_err();
    STDOUT_CLOSED.store(closed, Ordering::Relaxed);
}

#[used]
#[expect(unsafe_code, reason = "a function that runs before the runtime has to be placed by the linker")]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = look_at_stdout;

fn main() {
    std::process::exit(node::cli::main());
}

//! The binary `epochlog`: see `node::cli`.

fn main() {
    std::process::exit(node::cli::main());
}

//! The `highwater` binary. All code is in the library, so that tests can use it.

use std::process::ExitCode;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    highwater::cli::main()
}

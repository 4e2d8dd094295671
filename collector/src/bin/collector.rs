//! `collector`: the vendor's server and its local commands. See [`picket_collector::cli`].

/// Thousands of idle connections beside bursts of large batches: jemalloc gives the bursts back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    picket_collector::cli::main()
}

//! `soc`: the operator's command line. See [`picket_collector::soc`].

fn main() -> std::process::ExitCode {
    picket_collector::soc::main()
}

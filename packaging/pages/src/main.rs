//! `pages DIRECTORY`: writes the manual pages and the completions for bash, zsh and fish of `agent`, `collector` and
//! `soc` below DIRECTORY, as `PROGRAM/man/*.8` and `PROGRAM/completions/{bash,zsh,fish}/*`. A program of its own, so that
//! none of this is in the agent. What is written depends on the command lines alone: no time, no host.
#![forbid(unsafe_code)]

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

/// Administration, since most of what the programs do is for root.
const SECTION: &str = "8";

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("pages: where to? usage: pages DIRECTORY");
        return ExitCode::from(3);
    };
    let programs =
        [picket_agent::cli::command(), picket_collector::cli::command(), picket_collector::soc::command()];
    for program in programs {
        if let Err(error) = write_all(&program, Path::new(&directory)) {
            eprintln!("pages: {}: {error}", program.get_name());
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn write_all(program: &Command, directory: &Path) -> io::Result<()> {
    let directory = directory.join(program.get_name());
    let manual = directory.join("man");
    std::fs::create_dir_all(&manual)?;
    // Pages of subcommands stand by themselves; `help` says what `--help` says.
    let mut built = program.clone().disable_help_subcommand(true);
    built.build();
    write_page(&built, &manual)?;
    for (shell, name) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
        let at = directory.join("completions").join(name);
        std::fs::create_dir_all(&at)?;
        clap_complete::generate_to(shell, &mut program.clone(), program.get_name(), at)?;
    }
    Ok(())
}

fn write_page(command: &Command, directory: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        write_page(subcommand, directory)?;
    }
    clap_mangen::Man::new(command.clone()).section(SECTION).generate_to(directory).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_has_a_page_and_every_shell_its_completions() {
        let directory = tempfile::tempdir().expect("a directory");
        write_all(&picket_agent::cli::command(), directory.path()).expect("written");
        let read = |path: &str| std::fs::read_to_string(directory.path().join(path)).expect(path);
        assert!(read("agent/man/agent.8").contains("agent\\-status(8)"));
        assert!(read("agent/man/agent-hold-commands.8").contains("sudo agent hold"));
        for file in ["bash/agent.bash", "zsh/_agent", "fish/agent.fish"] {
            assert!(read(&format!("agent/completions/{file}")).contains("neighbours"), "{file}");
        }
    }
}

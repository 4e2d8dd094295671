//! Compiles the BPF programs where clang is installed; elsewhere takes the object that is committed beside their
//! sources (a test holds the two together), so that a build needs nothing but cargo and a C compiler. `PICKET_BPF=committed`
//! takes the committed one in any case: packages are to be the same wherever they are built.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=PATH");
    println!("cargo:rerun-if-env-changed=PICKET_BPF");
    let committed = std::env::var_os("PICKET_BPF").is_some_and(|choice| choice == "committed");
    for program in ["processes", "network", "connects", "block"] {
        let built = PathBuf::from(std::env::var("OUT_DIR")?).join(format!("{program}.bpf.o"));
        if committed || !compile(Path::new(&format!("bpf/{program}.bpf.c")), &built) {
            std::fs::copy(format!("bpf/{program}.bpf.o"), &built)?;
        }
    }
    Ok(())
}

/// Whether there is a clang that could.
fn compile(source: &Path, built: &Path) -> bool {
    let mut clang = Command::new("clang");
    clang.args(["-O2", "-mcpu=v3", "-g", "-target", "bpfel", "-fdebug-compilation-dir=.", "-c"]);
    clang.arg(source).arg("-o").arg(built).stderr(Stdio::null());
    clang.status().is_ok_and(|status| status.success())
}

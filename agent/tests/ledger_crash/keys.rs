//! The ledger's key files on the [`Disk`], in the same steps as on a real one.

use std::io;
use std::path::PathBuf;

use picket_agent::ledger::{KeyFiles, Seed};

use crate::disk::{Disk, Failure};

pub struct DiskKeys(pub &'static Disk);

fn name(n: u64) -> String {
    format!("/keys/ledger-{n}.key")
}

fn failed(failure: Failure) -> io::Error {
    io::Error::other(format!("{failure:?}"))
}

impl KeyFiles for DiskKeys {
    fn list(&self) -> io::Result<Vec<u64>> {
        let number = |name: &String| name.strip_prefix("/keys/ledger-")?.strip_suffix(".key")?.parse().ok();
        Ok(self.0.state().names().iter().filter_map(number).collect())
    }

    fn read(&self, n: u64) -> io::Result<Option<Seed>> {
        let state = self.0.state();
        let file = state.find(&name(n)).and_then(|id| state.files.get(&id));
        Ok(file.and_then(|file| Some(Seed::new(file.live.get(..32)?.try_into().ok()?))))
    }

    fn write(&self, n: u64, seed: &Seed) -> io::Result<()> {
        let mut state = self.0.state();
        let id = match state.find(&name(n)) {
            Some(id) => id,
            None => state.make(&name(n)),
        };
        state.truncate(id, 0);
        state.write(id, 0, &seed[..]).map_err(failed)?;
        state.sync(id).map_err(failed)?;
        state.sync_names();
        Ok(())
    }

    fn erase(&self, n: u64) -> io::Result<()> {
        let mut state = self.0.state();
        let Some(id) = state.find(&name(n)) else { return Ok(()) };
        state.write(id, 0, &[0; 32]).map_err(failed)?;
        state.sync(id).map_err(failed)?;
        state.remove(&name(n));
        state.sync_names();
        Ok(())
    }

    fn path(&self, n: u64) -> PathBuf {
        name(n).into()
    }
}

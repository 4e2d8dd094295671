//! The real binary in directories of its own, as root: what it prints, how it exits, who may ask it, and how it
//! takes faults. Sensors and the link have their own tests; these agents are mostly not enrolled.

mod baseline;
mod clients;
mod commands;
mod files;
mod findings;
mod host;
mod life;
mod vendor;
mod windows;

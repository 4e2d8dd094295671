//! The HTTPS API under `/api/v1`.

pub mod types;

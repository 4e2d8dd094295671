//! The local socket.

//! Entries of the allow-list that nobody needs.

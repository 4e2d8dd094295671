//! What a change of a watched file means.

//! What login events mean.
